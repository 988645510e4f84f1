// contexts: what is recalled from.
#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "client/console/table.h"
#include "client/varvectl/command.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"

namespace varve::varvectl {
namespace {

using console::Align;
using console::Table;
using nlohmann::json;

// Blocks that every layer has digests of.
uint32_t Digested(const client::ContextInfo& context) {
  const auto& blocks = context.digest_blocks;
  return blocks.empty() ? 0 : *std::min_element(blocks.begin(), blocks.end());
}

json ContextJson(const client::ContextInfo& context) {
  return {{"context_id", context.context_id},
          {"state", context.attached ? "attached" : "parked"},
          {"geometry", context.geometry.ToString()},
          {"tokens", uint64_t{context.num_blocks} * context.geometry.page_tokens},
          {"num_blocks", context.num_blocks},
          {"epoch", context.epoch},
          {"digest", std::string(page::Info(context.digest_kind).name)},
          {"digest_bytes", context.digest_bytes},
          {"digest_blocks", context.digest_blocks},
          {"attached_sessions", context.attached_sessions}};
}

absl::Status ShowContexts(const Globals& globals) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  VARVE_ASSIGN_OR_RETURN(const auto contexts, client->ListContexts());
  if (globals.json) {
    json rows = json::array();
    for (const client::ContextInfo& context : contexts) rows.push_back(ContextJson(context));
    PrintJson({{"contexts", std::move(rows)}});
    return absl::OkStatus();
  }
  if (contexts.empty()) {
    std::printf("no contexts in namespace '%s'; --namespace names another\n",
                globals.key_namespace.c_str());
    return absl::OkStatus();
  }
  Table table({{"context"},
               {"state"},
               {"tokens", Align::kRight},
               {"blocks", Align::kRight},
               {"digested", Align::kRight},
               {"digests"},
               {"size", Align::kRight},
               {"epoch", Align::kRight},
               {"sessions", Align::kRight},
               {"geometry"}});
  for (const client::ContextInfo& context : contexts) {
    table.AddRow({context.context_id, context.attached ? "attached" : "parked",
                  absl::StrCat(uint64_t{context.num_blocks} * context.geometry.page_tokens),
                  absl::StrCat(context.num_blocks), absl::StrCat(Digested(context)),
                  std::string(page::Info(context.digest_kind).name),
                  base::FormatBytes(context.digest_bytes), absl::StrCat(context.epoch),
                  absl::StrCat(context.attached_sessions), context.geometry.ToString()});
  }
  std::printf("%s", table.Render().c_str());
  return absl::OkStatus();
}

// All that are there, in any case; NOT_FOUND when some are not.
absl::Status DropContexts(const Globals& globals, const std::vector<std::string>& ids) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, true));
  json rows = json::array();
  size_t missing = 0;
  for (const std::string& id : ids) {
    const absl::Status status = client->DropContext(id);
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    missing += !status.ok();
    rows.push_back({{"context_id", id}, {"dropped", status.ok()}});
    if (!globals.json && status.ok()) std::printf("dropped %s\n", id.c_str());
  }
  if (globals.json) PrintJson({{"results", std::move(rows)}});
  if (missing == 0) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(missing, " of ", ids.size(),
                                          " contexts not dropped: there are none of these ids in "
                                          "namespace '",
                                          globals.key_namespace, "'"));
}

}  // namespace

void AddContextCommands(CLI::App& app, const Globals& globals, Action& action) {
  CLI::App* contexts = AddCommand(
      app, "contexts", "Contexts of the namespace: their blocks, digests and who is attached",
      "  varvectl contexts\n  varvectl contexts --namespace llama --json\n"
      "  varvectl contexts drop chat-17");
  CLI::App* drop =
      AddCommand(*contexts, "drop",
                 "Drop contexts, their digests and their block lists; stored objects stay.\n"
                 "Also those that sessions are attached to: their next call on it is NOT_FOUND.",
                 "  varvectl contexts drop chat-17");
  auto ids = std::make_shared<std::vector<std::string>>();
  drop->add_option("ID", *ids, "Ids, as varvectl contexts lists them")->required();
  contexts->callback([&globals, &action, drop, ids] {
    if (drop->parsed()) {
      action = [&globals, ids] { return DropContexts(globals, *ids); };
    } else {
      action = [&globals] { return ShowContexts(globals); };
    }
  });
}

}  // namespace varve::varvectl
