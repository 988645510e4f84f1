#include "client/varvectl/tier_tables.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/console/progress.h"
#include "client/console/table.h"
#include "client/varvectl/command.h"
#include "kvstore/base/units.h"

namespace varve::varvectl {
namespace {

using console::Align;
using console::Table;
using nlohmann::json;

std::string Age(absl::Duration age) { return console::HumanDuration(absl::ToDoubleSeconds(age)); }
std::string Percent(double part, double whole) {
  return whole <= 0 ? "-" : absl::StrFormat("%.1f %%", 100 * part / whole);
}

void AddDisk(const client::TierInfo& tier, json& row) {
  row["durability"] = tier.durability;
  row["io"] = tier.io;
  row["live_bytes"] = tier.live_bytes;
  row["recovered_objects"] = tier.recovered_objects;
  row["recovery_seconds"] = absl::ToDoubleSeconds(tier.recovery_time);
  row["directories"] = json::array();
  for (const client::DirectoryInfo& directory : tier.directories) {
    row["directories"].push_back({{"path", directory.path},
                                  {"state", directory.state},
                                  {"problem", directory.problem},
                                  {"capacity_bytes", directory.capacity_bytes},
                                  {"used_bytes", directory.used_bytes},
                                  {"live_bytes", directory.live_bytes},
                                  {"segments", directory.segments},
                                  {"records", directory.records}});
  }
}

}  // namespace

json TiersJson(const client::StoreStatus& status) {
  json rows = json::array();
  for (const client::TierInfo& tier : status.tiers) {
    json row = {{"tier", TierName(tier.tier)},
                {"capacity_bytes", tier.capacity_bytes},
                {"used_bytes", tier.used_bytes},
                {"pinned_bytes", tier.pinned_bytes},
                {"objects", tier.objects},
                {"fragmentation_ratio", tier.fragmentation_ratio},
                {"low_watermark", tier.low_watermark},
                {"high_watermark", tier.high_watermark},
                {"eviction", tier.eviction},
                {"evicted_objects", tier.evicted_objects},
                {"cut_objects", tier.cut_objects},
                {"last_evicted_idle_seconds", absl::ToDoubleSeconds(tier.last_evicted_idle)},
                {"queued_objects", tier.queued_objects},
                {"queued_bytes", tier.queued_bytes}};
    if (tier.tier == client::Tier::kHost) row["beyond_bytes"] = tier.beyond_bytes;
    if (tier.tier == client::Tier::kNvme) AddDisk(tier, row);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::string TierTable(const client::StoreStatus& status) {
  Table table({{"tier"},
               {"used", Align::kRight},
               {"capacity", Align::kRight},
               {"full", Align::kRight},
               {"pinned", Align::kRight},
               {"objects", Align::kRight},
               {"queued", Align::kRight},
               {"evicted", Align::kRight},
               {"cut", Align::kRight},
               {"idle then", Align::kRight},
               {"evicts from .. to", Align::kRight}});
  for (const client::TierInfo& tier : status.tiers) {
    table.AddRow({TierName(tier.tier), base::FormatBytes(tier.used_bytes),
                  base::FormatBytes(tier.capacity_bytes),
                  Percent(tier.used_bytes, tier.capacity_bytes),
                  base::FormatBytes(tier.pinned_bytes), absl::StrCat(tier.objects),
                  absl::StrCat(tier.queued_objects), absl::StrCat(tier.evicted_objects),
                  absl::StrCat(tier.cut_objects),
                  tier.evicted_objects == 0 ? "-" : Age(tier.last_evicted_idle),
                  absl::StrFormat("%.0f %% .. %.0f %%", 100 * tier.high_watermark,
                                  100 * tier.low_watermark)});
  }
  return table.Render();
}

std::string TierDetails(const client::StoreStatus& status) {
  std::string text;
  for (const client::TierInfo& tier : status.tiers) {
    if (tier.beyond_bytes > 0) {
      absl::StrAppend(&text, "\n", TierName(tier.tier), ": ", base::FormatBytes(tier.beyond_bytes),
                      " are still to leave or to move, since it was made smaller\n");
    }
    if (tier.tier != client::Tier::kNvme) continue;
    absl::StrAppend(&text, "\nnvme: durability ", tier.durability, ", ", tier.io, ", ",
                    tier.recovered_objects, " objects found at the start in ",
                    Age(tier.recovery_time), "\n\n");
    Table table({{"directory"},
                 {"state"},
                 {"used", Align::kRight},
                 {"live", Align::kRight},
                 {"capacity", Align::kRight},
                 {"files", Align::kRight},
                 {"records", Align::kRight},
                 {"problem"}});
    for (const client::DirectoryInfo& directory : tier.directories) {
      table.AddRow({directory.path, directory.state, base::FormatBytes(directory.used_bytes),
                    base::FormatBytes(directory.live_bytes),
                    base::FormatBytes(directory.capacity_bytes), absl::StrCat(directory.segments),
                    absl::StrCat(directory.records), directory.problem});
    }
    absl::StrAppend(&text, table.Render());
  }
  return text;
}

}  // namespace varve::varvectl
