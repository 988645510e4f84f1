// Commands about objects by their keys: ls, rm, pin.
#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "client/console/table.h"
#include "client/varvectl/command.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::varvectl {
namespace {

using console::Align;
using console::Table;
using nlohmann::json;

constexpr uint32_t kListPage = 1000;

struct ListOptions {
  std::string prefix;
  bool details = false;
  uint64_t limit = 1000;
};

absl::StatusOr<std::vector<client::ObjectInfo>> Collect(client::Client& client,
                                                        const std::string& prefix, uint64_t limit,
                                                        bool* more) {
  std::vector<client::ObjectInfo> objects;
  std::string token;
  do {
    const uint32_t page_size =
        static_cast<uint32_t>(std::min<uint64_t>(kListPage, limit - objects.size()));
    VARVE_ASSIGN_OR_RETURN(client::ObjectPage page, client.List(prefix, page_size, token));
    std::move(page.objects.begin(), page.objects.end(), std::back_inserter(objects));
    token = page.next_page_token;
  } while (!token.empty() && objects.size() < limit);
  *more = !token.empty();
  return objects;
}

std::string LongTable(const std::vector<client::ObjectInfo>& objects) {
  Table table({{"key"},
               {"size", Align::kRight},
               {"tier"},
               {"codec"},
               {"layout"},
               {"pins", Align::kRight},
               {"crc32c"}});
  for (const client::ObjectInfo& object : objects) {
    const page::ObjectLayout& layout = object.layout;
    table.AddRow({FormatKey(object.key), base::FormatBytes(object.bytes), TierName(object.tier),
                  object.codec,
                  layout.num_kv_heads == 0 ? "opaque"
                                           : absl::StrCat(layout.num_kv_heads, " heads x 2 x ",
                                                          base::FormatBytes(layout.part_bytes)),
                  absl::StrCat(object.pins), absl::StrFormat("%08x", object.crc32c)});
  }
  return table.Render();
}

absl::Status List(const Globals& globals, const ListOptions& options) {
  VARVE_ASSIGN_OR_RETURN(const std::string prefix, ParsePrefix(options.prefix));
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  bool more = false;
  VARVE_ASSIGN_OR_RETURN(const auto objects, Collect(*client, prefix, options.limit, &more));
  if (globals.json) {
    json rows = json::array();
    for (const client::ObjectInfo& object : objects) rows.push_back(ObjectJson(object));
    PrintJson({{"objects", std::move(rows)}, {"more", more}});
    return absl::OkStatus();
  }
  if (options.details) {
    std::printf("%s", LongTable(objects).c_str());
  } else {
    for (const client::ObjectInfo& object : objects)
      std::printf("%s\n", FormatKey(object.key).c_str());
  }
  if (more)
    std::fprintf(stderr, "varvectl: only the first %zu; --limit shows more\n", objects.size());
  return absl::OkStatus();
}

// Prints what happened to each key; NOT_FOUND when it did not happen to all.
absl::Status ShowOutcomes(const Globals& globals, const std::vector<page::ObjectKey>& keys,
                          const std::vector<bool>& done, const char* verb, const char* otherwise) {
  size_t failed = 0;
  json rows = json::array();
  for (size_t i = 0; i < keys.size(); ++i) {
    failed += !done[i];
    if (globals.json) {
      rows.push_back({{"key", FormatKey(keys[i])}, {verb, static_cast<bool>(done[i])}});
    } else if (done[i]) {
      std::printf("%s %s\n", verb, FormatKey(keys[i]).c_str());
    }
  }
  if (globals.json) PrintJson({{"results", std::move(rows)}});
  if (failed == 0) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(failed, " of ", keys.size(), " keys not ", verb, ": ", otherwise));
}

absl::Status Remove(const Globals& globals, const std::vector<std::string>& texts, bool force) {
  VARVE_ASSIGN_OR_RETURN(const auto keys, ParseKeys(texts));
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  VARVE_ASSIGN_OR_RETURN(const std::vector<bool> removed, client->Remove(keys, force));
  return ShowOutcomes(
      globals, keys, removed, "removed",
      force ? "they are not stored" : "they are not stored, or pinned (--force removes those too)");
}

absl::Status Evict(const Globals& globals, const std::string& text) {
  VARVE_ASSIGN_OR_RETURN(const std::string prefix, ParsePrefix(text));
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  VARVE_ASSIGN_OR_RETURN(const client::EvictOutcome outcome,
                         client->Evict(globals.key_namespace, prefix));
  if (globals.json) {
    PrintJson({{"objects", outcome.objects}, {"bytes", outcome.bytes}, {"kept", outcome.kept}});
    return absl::OkStatus();
  }
  std::printf("evicted %llu objects of %s", static_cast<unsigned long long>(outcome.objects),
              base::FormatBytes(outcome.bytes).c_str());
  if (outcome.kept > 0) {
    std::printf("; kept %llu that are pinned, held by a context or being read",
                static_cast<unsigned long long>(outcome.kept));
  }
  std::printf("\n");
  return absl::OkStatus();
}

// Until `end`, or until somebody wants the program to stop. UNAVAILABLE when the session ends, and
// the pins with it.
absl::Status HoldUntil(absl::Time end, const client::Client& client, uint64_t session) {
  constexpr absl::Duration kLook = absl::Milliseconds(200);
  while (absl::Now() < end && !console::Stopped()) {
    absl::SleepFor(std::min(end - absl::Now(), kLook));
    if (client.session() != session) {
      return absl::UnavailableError("the session with the store ended, and the pins with it");
    }
  }
  return absl::OkStatus();
}

absl::Status Pin(const Globals& globals, const std::vector<std::string>& texts,
                 const std::string& ttl) {
  VARVE_ASSIGN_OR_RETURN(const auto keys, ParseKeys(texts));
  VARVE_ASSIGN_OR_RETURN(const absl::Duration duration, base::ParseDuration(ttl));
  console::StopOnSignals();
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  const uint64_t session = client->session();
  const absl::Time end = absl::Now() + duration;
  VARVE_ASSIGN_OR_RETURN(const std::vector<bool> pinned, client->Pin(keys, duration));
  const absl::Status shown = ShowOutcomes(globals, keys, pinned, "pinned", "they are not stored");
  if (std::find(pinned.begin(), pinned.end(), true) == pinned.end()) return shown;
  std::fflush(stdout);
  if (!globals.json) {
    const bool forever = duration == absl::InfiniteDuration();
    std::fprintf(
        stderr, "holding%s; Ctrl-C lets go\n",
        forever ? "" : (" for " + console::HumanDuration(absl::ToDoubleSeconds(duration))).c_str());
  }
  VARVE_RETURN_IF_ERROR(HoldUntil(end, *client, session));
  return shown;
}

void AddList(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* ls = AddCommand(
      app, "ls", "List stored objects, in the order of their keys",
      "  varvectl ls\n  varvectl ls --prefix greet --long\n  varvectl ls --prefix hex:00ff --json");
  auto options = std::make_shared<ListOptions>();
  ls->add_option("--prefix", options->prefix, "Only keys that begin so: text, or hex: and digits");
  ls->add_flag("--long,-l", options->details, "Also size, tier, codec, layout, pins and checksum");
  ls->add_option("--limit", options->limit, "At most so many")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
      ->capture_default_str();
  ls->callback([&globals, &action, options] {
    action = [&globals, options] { return List(globals, *options); };
  });
}

}  // namespace

void AddObjectCommands(CLI::App& app, const Globals& globals, Action& action) {
  AddList(app, globals, action);

  CLI::App* rm = AddCommand(app, "rm", "Remove objects",
                            "  varvectl rm greeting\n  varvectl rm --force hex:00ff00ff");
  auto rm_keys = std::make_shared<std::vector<std::string>>();
  auto force = std::make_shared<bool>(false);
  rm->add_option("KEY", *rm_keys, kKeyHelp)->required();
  rm->add_flag("--force", *force, "Also when pinned");
  rm->callback([&globals, &action, rm_keys, force] {
    action = [&globals, rm_keys, force] { return Remove(globals, *rm_keys, *force); };
  });

  CLI::App* evict =
      AddCommand(app, "evict",
                 "Evict the objects of the namespace, or those with a key prefix.\n"
                 "What is pinned, held by an attached context or being read stays.",
                 "  varvectl evict --prefix greet\n  varvectl --namespace tenant-a evict --all");
  auto evicted_prefix = std::make_shared<std::string>();
  CLI::Option* prefix = evict->add_option("--prefix", *evicted_prefix,
                                          "Keys that begin so: text, or hex: and digits");
  auto everything = std::make_shared<bool>(false);
  evict->add_flag("--all", *everything, "The whole namespace")->excludes(prefix);
  evict->callback([&globals, &action, evicted_prefix, prefix, everything] {
    if (prefix->count() == 0 && !*everything) {
      throw CLI::ValidationError("evict", "--prefix or --all: which objects?");
    }
    action = [&globals, evicted_prefix] { return Evict(globals, *evicted_prefix); };
  });

  CLI::App* pin =
      AddCommand(app, "pin",
                 "Keep objects from eviction and removal while this command runs.\n"
                 "Pins end with the session that made them, so it stays until --ttl or Ctrl-C.",
                 "  varvectl pin greeting --ttl 10m");
  auto pin_keys = std::make_shared<std::vector<std::string>>();
  auto ttl = std::make_shared<std::string>("1h");
  pin->add_option("KEY", *pin_keys, kKeyHelp)->required();
  pin->add_option("--ttl", *ttl, "For how long; infinite: until Ctrl-C")->capture_default_str();
  pin->callback([&globals, &action, pin_keys, ttl] {
    action = [&globals, pin_keys, ttl] { return Pin(globals, *pin_keys, *ttl); };
  });
}

}  // namespace varve::varvectl
