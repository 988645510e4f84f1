// varvectl snapshot: what a store holds, as lines of JSON.
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "client/varvectl/command.h"
#include "client/varvectl/output_file.h"
#include "kvstore/base/status.h"

namespace varve::varvectl {
namespace {

constexpr uint32_t kListPage = 5000;
constexpr const char* kStandardStream = "-";

struct SnapshotOptions {
  std::string file;
  std::string prefix;
  bool all_namespaces = false;
};

using Sink = std::function<absl::Status(std::string_view)>;

absl::Status WriteStandardOutput(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), stdout) == bytes.size()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("cannot write standard output: ", std::strerror(errno)));
}

// One namespace; adds to objects.
absl::Status WriteNamespace(const Globals& globals, const std::string& prefix, const Sink& sink,
                            const std::function<void(uint64_t)>& progress, uint64_t& objects) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  std::string token;
  do {
    VARVE_RETURN_IF_ERROR(console::CheckStopped());
    VARVE_ASSIGN_OR_RETURN(const client::ObjectPage page, client->List(prefix, kListPage, token));
    std::string lines;
    for (const client::ObjectInfo& object : page.objects) {
      nlohmann::json row = ObjectJson(object);
      row["namespace"] = globals.key_namespace;
      absl::StrAppend(&lines, row.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                      "\n");
    }
    VARVE_RETURN_IF_ERROR(sink(lines));
    objects += page.objects.size();
    progress(objects);
    token = page.next_page_token;
  } while (!token.empty());
  return absl::OkStatus();
}

absl::Status Snapshot(const Globals& globals, const SnapshotOptions& options) {
  VARVE_ASSIGN_OR_RETURN(const std::string prefix, ParsePrefix(options.prefix));
  console::StopOnSignals();
  std::vector<std::string> namespaces = {globals.key_namespace};
  uint64_t expected = 0;
  if (options.all_namespaces) {
    VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
    VARVE_ASSIGN_OR_RETURN(namespaces, client->ListNamespaces());
    VARVE_ASSIGN_OR_RETURN(const client::StoreStatus status, client->Status());
    if (prefix.empty()) expected = status.objects;
  }
  const bool to_file = options.file != kStandardStream;
  std::unique_ptr<OutputFile> file;
  if (to_file) {
    VARVE_ASSIGN_OR_RETURN(file, OutputFile::Open(options.file));
  }
  const Sink sink = [&](std::string_view lines) {
    return to_file ? file->Write(lines) : WriteStandardOutput(lines);
  };
  uint64_t objects = 0;
  {
    std::optional<console::Progress> progress;
    for (const std::string& name : namespaces) {
      Globals one = globals;
      one.key_namespace = name;
      const auto listed = [&](uint64_t so_far) {
        if (globals.json) return;
        if (!progress.has_value()) progress.emplace("snapshot", expected);
        progress->Update(so_far, "namespace " + name);
      };
      VARVE_RETURN_IF_ERROR(WriteNamespace(one, prefix, sink, listed, objects));
    }
  }
  if (!to_file) return absl::OkStatus();
  VARVE_RETURN_IF_ERROR(file->Commit());
  if (globals.json) {
    PrintJson({{"file", options.file}, {"objects", objects}, {"namespaces", namespaces}});
  } else {
    std::printf("%s\n", absl::StrCat(objects, " objects of ", namespaces.size(),
                                     " namespaces are listed in ", options.file)
                            .c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddSnapshotCommand(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* snapshot = AddCommand(
      app, "snapshot",
      "Write down what the store holds, one line of JSON for each object: namespace, key, bytes,\n"
      "tiers, pins, time since its last use, checksum. To look at a cache, or to compare two; it\n"
      "has no values. The store goes on meanwhile: what comes and goes may or may not be in it.",
      "  varvectl snapshot objects.jsonl\n"
      "  varvectl snapshot --all-namespaces all.jsonl\n"
      "  varvectl snapshot - | jq -r .key");
  auto options = std::make_shared<SnapshotOptions>();
  snapshot->add_option("FILE", options->file, "Where to; - writes standard output")->required();
  snapshot->add_option("--prefix", options->prefix,
                       "Only keys that begin so: text, or hex: and digits");
  snapshot->add_flag("--all-namespaces", options->all_namespaces,
                     "Of every namespace the store knows");
  snapshot->callback([&globals, &action, options] {
    action = [&globals, options] { return Snapshot(globals, *options); };
  });
}

}  // namespace varve::varvectl
