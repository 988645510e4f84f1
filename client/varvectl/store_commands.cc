// Commands about the store as a whole: status, sessions, plugins, config, drain, ping.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/console/progress.h"
#include "client/console/table.h"
#include "client/varvectl/command.h"
#include "client/varvectl/tier_tables.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/page/digest/digest.h"

namespace varve::varvectl {
namespace {

using console::Align;
using console::Table;
using nlohmann::json;

constexpr uint64_t kMaxPingBytes = 32 << 20;  // well below the largest message of a store

std::string Age(absl::Duration age) { return console::HumanDuration(absl::ToDoubleSeconds(age)); }

json SessionsJson(const client::StoreStatus& status) {
  json rows = json::array();
  for (const client::SessionInfo& session : status.sessions) {
    rows.push_back({{"client_name", session.client_name},
                    {"namespace", session.key_namespace},
                    {"lane", session.lane},
                    {"peer", session.peer},
                    {"age_seconds", absl::ToDoubleSeconds(session.age)},
                    {"regions", session.regions},
                    {"registered_bytes", session.registered_bytes},
                    {"read_bytes", session.read_bytes},
                    {"written_bytes", session.written_bytes}});
  }
  return rows;
}

std::string SessionTable(const client::StoreStatus& status) {
  Table table({{"client"},
               {"namespace"},
               {"lane"},
               {"peer"},
               {"age", Align::kRight},
               {"regions", Align::kRight},
               {"registered", Align::kRight},
               {"put", Align::kRight},
               {"got", Align::kRight}});
  for (const client::SessionInfo& session : status.sessions) {
    table.AddRow({session.client_name, session.key_namespace, session.lane, session.peer,
                  Age(session.age), absl::StrCat(session.regions),
                  base::FormatBytes(session.registered_bytes),
                  base::FormatBytes(session.read_bytes), base::FormatBytes(session.written_bytes)});
  }
  return status.sessions.empty() ? "no sessions\n" : table.Render();
}

absl::Status ShowStatus(const Globals& globals) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  VARVE_ASSIGN_OR_RETURN(const client::StoreStatus status, client->Status());
  if (globals.json) {
    PrintJson({{"store", globals.store},
               {"version", status.version},
               {"uptime_seconds", absl::ToDoubleSeconds(status.uptime)},
               {"draining", status.draining},
               {"objects", status.objects},
               {"contexts", status.contexts},
               {"tiers", TiersJson(status)},
               {"sessions", SessionsJson(status)}});
    return absl::OkStatus();
  }
  std::printf("varve-store %s at %s, up %s, %s\n", status.version.c_str(), globals.store.c_str(),
              Age(status.uptime).c_str(), status.draining ? "draining" : "serving");
  std::printf("%s objects, %s contexts, %s sessions\n\n%s", absl::StrCat(status.objects).c_str(),
              absl::StrCat(status.contexts).c_str(), absl::StrCat(status.sessions.size()).c_str(),
              TierTable(status).c_str());
  return absl::OkStatus();
}

absl::Status ShowSessions(const Globals& globals) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  VARVE_ASSIGN_OR_RETURN(const client::StoreStatus status, client->Status());
  if (globals.json) {
    PrintJson({{"sessions", SessionsJson(status)}});
  } else {
    std::printf("%s", SessionTable(status).c_str());
  }
  return absl::OkStatus();
}

// What digests cost is said of this shape.
constexpr page::Geometry kDigestShape = {.num_layers = 1,
                                         .num_kv_heads = 1,
                                         .num_query_heads = 1,
                                         .head_dim = 128,
                                         .page_tokens = 32,
                                         .dtype = page::DType::kBF16};

// The digest kind that a line of plug-ins names; nothing for other lines, and for kinds that this
// program does not know.
std::optional<page::DigestKind> DigestOf(std::string_view plugin) {
  constexpr std::string_view kPrefix = "digest: ";
  if (!plugin.starts_with(kPrefix)) return std::nullopt;
  return page::DigestKindByName(plugin.substr(kPrefix.size()));
}

json DigestsJson(const client::StoreStatus& status) {
  json digests = json::array();
  for (const std::string& plugin : status.plugins) {
    const auto kind = DigestOf(plugin);
    if (!kind.has_value()) continue;
    const size_t bytes = page::DigestBytes(*kind, kDigestShape);
    digests.push_back({{"name", std::string(page::Info(*kind).name)},
                       {"head_dim", kDigestShape.head_dim},
                       {"page_tokens", kDigestShape.page_tokens},
                       {"dtype", page::DTypeName(kDigestShape.dtype)},
                       {"bytes_per_page_and_kv_head", bytes},
                       {"bytes_per_token", static_cast<double>(bytes) / kDigestShape.page_tokens}});
  }
  return digests;
}

void PrintPlugin(const std::string& plugin) {
  const auto kind = DigestOf(plugin);
  if (!kind.has_value()) {
    std::printf("%s\n", plugin.c_str());
    return;
  }
  const size_t bytes = page::DigestBytes(*kind, kDigestShape);
  std::printf("%-21s  %4zu bytes per page and KV head, %4.1f per token (d %u, p %u, %s)\n",
              plugin.c_str(), bytes, static_cast<double>(bytes) / kDigestShape.page_tokens,
              kDigestShape.head_dim, kDigestShape.page_tokens, DTypeName(kDigestShape.dtype));
}

absl::Status ShowPlugins(const Globals& globals) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  VARVE_ASSIGN_OR_RETURN(const client::StoreStatus status, client->Status());
  if (globals.json) {
    PrintJson({{"plugins", status.plugins}, {"digests", DigestsJson(status)}});
  } else {
    for (const std::string& plugin : status.plugins) PrintPlugin(plugin);
  }
  return absl::OkStatus();
}

absl::Status ShowConfig(const Globals& globals) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  VARVE_ASSIGN_OR_RETURN(const std::string text, client->Config());
  if (globals.json) {
    PrintJson({{"config", text}});
  } else {
    std::printf("%s%s", text.c_str(), text.ends_with('\n') ? "" : "\n");
  }
  return absl::OkStatus();
}

absl::Status Drain(const Globals& globals) {
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  VARVE_RETURN_IF_ERROR(client->Drain());
  if (globals.json) {
    PrintJson({{"draining", true}});
  } else {
    std::printf("%s is draining: it takes no new sessions and finishes its transfers\n",
                globals.store.c_str());
  }
  return absl::OkStatus();
}

absl::Status Ping(const Globals& globals, uint32_t count, const std::string& size) {
  VARVE_ASSIGN_OR_RETURN(const uint64_t bytes, base::ParseBytes(size));
  if (bytes > kMaxPingBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("--bytes ", size, ": allowed are 0 to ", base::FormatBytes(kMaxPingBytes)));
  }
  VARVE_ASSIGN_OR_RETURN(const auto client, Dial(globals, false));
  std::vector<double> micros;
  for (uint32_t i = 0; i < count; ++i) {
    const auto start = std::chrono::steady_clock::now();
    VARVE_RETURN_IF_ERROR(client->Echo(bytes));
    micros.push_back(
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
            .count());
  }
  const double first = micros.front();  // dials
  std::sort(micros.begin(), micros.end());
  const double median = micros[micros.size() / 2];
  if (globals.json) {
    PrintJson({{"store", globals.store},
               {"bytes", bytes},
               {"round_trips", count},
               {"first_us", first},
               {"min_us", micros.front()},
               {"median_us", median},
               {"max_us", micros.back()}});
  } else {
    std::printf(
        "%s answers: %u round trips of %s, first %.0f us, then min %.0f us, median %.0f us\n",
        globals.store.c_str(), count, base::FormatBytes(bytes).c_str(), first, micros.front(),
        median);
  }
  return absl::OkStatus();
}

}  // namespace

void AddStoreCommands(CLI::App& app, const Globals& globals, Action& action) {
  const auto add = [&](const char* name, const char* about, const char* examples,
                       absl::Status (*run)(const Globals&)) {
    AddCommand(app, name, about, examples)->callback([&globals, &action, run] {
      action = [&globals, run] { return run(globals); };
    });
  };
  add("status", "Is the store up, what does it hold, how full is it",
      "  varvectl status\n  varvectl status --json --store 10.0.0.7:7411", ShowStatus);
  add("sessions", "Who is connected, by which lane, with how much memory",
      "  varvectl sessions\n  varvectl sessions --json", ShowSessions);
  add("plugins",
      "Names that the store's settings may use: eviction, digests, codecs ...\n"
      "and what a digest takes for head_dim 128, 32 tokens a page, bf16",
      "  varvectl plugins", ShowPlugins);
  add("config", "Every setting of the running store and where it came from", "  varvectl config",
      ShowConfig);
  add("drain",
      "Let the store finish its work and take no new sessions, as SIGTERM does;\n"
      "the process stays until it gets a signal",
      "  varvectl drain", Drain);

  CLI::App* ping = AddCommand(app, "ping", "Time the way to the store and back",
                              "  varvectl ping\n  varvectl ping --count 100 --bytes 64KiB");
  auto count = std::make_shared<uint32_t>(10);
  auto bytes = std::make_shared<std::string>("0");
  ping->add_option("--count", *count, "Round trips")
      ->check(CLI::Range(1u, 1000000u))
      ->capture_default_str();
  ping->add_option("--bytes", *bytes, "Payload each way, up to 32MiB")->capture_default_str();
  ping->callback([&globals, &action, count, bytes] {
    action = [&globals, count, bytes] { return Ping(globals, *count, *bytes); };
  });
}

}  // namespace varve::varvectl
