// varvectl prefetch: objects from disk into host memory, before somebody needs them.
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "client/varvectl/command.h"
#include "kvstore/base/status.h"

namespace varve::varvectl {
namespace {

constexpr uint32_t kListPage = 1000;
constexpr absl::Duration kPauseWhenBusy = absl::Milliseconds(50);

struct PrefetchOptions {
  std::vector<std::string> keys;
  std::string prefix;
};

struct Counts {
  uint64_t begun = 0, in_memory = 0, not_stored = 0;
};

// Until the store has taken all of them.
absl::Status PrefetchAll(client::Client& client, std::vector<page::ObjectKey> keys,
                         console::Progress* progress, Counts& counts) {
  while (!keys.empty()) {
    VARVE_RETURN_IF_ERROR(console::CheckStopped());
    VARVE_ASSIGN_OR_RETURN(const auto outcomes, client.Prefetch(keys));
    std::vector<page::ObjectKey> busy;
    for (size_t i = 0; i < keys.size(); ++i) {
      switch (outcomes[i]) {
        case client::PrefetchOutcome::kNotStored:
          ++counts.not_stored;
          break;
        case client::PrefetchOutcome::kInMemory:
          ++counts.in_memory;
          break;
        case client::PrefetchOutcome::kBegun:
          ++counts.begun;
          break;
        case client::PrefetchOutcome::kBusy:
          busy.push_back(keys[i]);
          break;
      }
    }
    if (progress != nullptr) progress->Update(counts.begun, "taken by the store");
    if (!busy.empty()) absl::SleepFor(kPauseWhenBusy);
    keys = std::move(busy);
  }
  return absl::OkStatus();
}

absl::Status PrefetchPrefix(client::Client& client, const std::string& prefix,
                            console::Progress* progress, Counts& counts) {
  std::string token;
  do {
    VARVE_ASSIGN_OR_RETURN(const client::ObjectPage page, client.List(prefix, kListPage, token));
    std::vector<page::ObjectKey> keys;
    for (const client::ObjectInfo& object : page.objects) keys.push_back(object.key);
    VARVE_RETURN_IF_ERROR(PrefetchAll(client, std::move(keys), progress, counts));
    token = page.next_page_token;
  } while (!token.empty());
  return absl::OkStatus();
}

absl::Status Prefetch(const Globals& globals, const PrefetchOptions& options, bool by_prefix) {
  VARVE_ASSIGN_OR_RETURN(std::vector<page::ObjectKey> keys, ParseKeys(options.keys));
  VARVE_ASSIGN_OR_RETURN(const std::string prefix, ParsePrefix(options.prefix));
  console::StopOnSignals();
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  Counts counts;
  {
    std::unique_ptr<console::Progress> progress;
    if (!globals.json) progress = std::make_unique<console::Progress>("prefetching", 0);
    VARVE_RETURN_IF_ERROR(by_prefix
                              ? PrefetchPrefix(*client, prefix, progress.get(), counts)
                              : PrefetchAll(*client, std::move(keys), progress.get(), counts));
  }
  if (globals.json) {
    PrintJson({{"begun", counts.begun},
               {"in_memory", counts.in_memory},
               {"not_stored", counts.not_stored}});
  } else {
    std::printf("%s\n", absl::StrCat(counts.begun, " objects are on their way to host memory, ",
                                     counts.in_memory, " were there already")
                            .c_str());
  }
  if (counts.not_stored == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(counts.not_stored, " keys are not stored in namespace '",
                                          globals.key_namespace, "'"));
}

}  // namespace

void AddPrefetchCommand(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* prefetch =
      AddCommand(app, "prefetch",
                 "Bring objects from disk into host memory, in the background of the store and\n"
                 "below what clients wait for. They stay on disk too. What makes room for them is\n"
                 "used longest ago: bringing more than fits is of no use.",
                 "  varvectl prefetch greeting\n  varvectl prefetch --prefix chat-17");
  auto options = std::make_shared<PrefetchOptions>();
  CLI::Option* keys = prefetch->add_option("KEY", options->keys, kKeyHelp);
  CLI::Option* prefix =
      prefetch
          ->add_option("--prefix", options->prefix, "Keys that begin so: text, or hex: and digits")
          ->excludes(keys);
  prefetch->callback([&globals, &action, options, keys, prefix] {
    if (keys->count() + prefix->count() == 0) {
      throw CLI::ValidationError("prefetch", "KEY or --prefix: which objects?");
    }
    const bool by_prefix = prefix->count() > 0;
    action = [&globals, options, by_prefix] { return Prefetch(globals, *options, by_prefix); };
  });
}

}  // namespace varve::varvectl
