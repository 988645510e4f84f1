#include "client/bench/trace_replay_report.h"

#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/bench/measure.h"
#include "client/console/line_plot.h"
#include "client/console/progress.h"
#include "client/console/table.h"
#include "kvstore/base/units.h"

namespace varve::client {
namespace {

using console::Align;

constexpr size_t kTableRows = 12;
static_assert(kReplaySlices % kTableRows == 0);

double Ratio(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

std::string Percent(double ratio) { return absl::StrFormat("%.1f %%", 100 * ratio); }

struct Latency {
  const char* name;  // of its fields
  const char* what;
  const std::vector<double>& seconds;
};
std::vector<Latency> Latencies(const ReplayResult& result) {
  std::vector<Latency> all = {{"lookup", "look-up of a request", result.lookup_seconds},
                              {"get", "gets of a request", result.get_seconds},
                              {"put", "puts of a request", result.put_seconds},
                              {"get_host", "get from host memory", result.host_batch_seconds}};
  if (result.has_nvme) {
    all.push_back({"get_nvme", "get with blocks from nvme", result.nvme_batch_seconds});
  }
  return all;
}

// Of the gets that had blocks from disk; 0 when there were none.
double NvmeTokensPerSecond(const ReplayResult& result) {
  const auto& seconds = result.nvme_batch_seconds;
  const double sum = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  return sum > 0 ? static_cast<double>(result.hits_nvme * kTraceBlockTokens) / sum : 0;
}

std::string TimeTable(const ReplayResult& result) {
  std::vector<console::Column> columns = {{"from", Align::kRight},
                                          {"requests", Align::kRight},
                                          {"blocks", Align::kRight},
                                          {"host hits", Align::kRight}};
  if (result.has_nvme) {
    columns.push_back({"nvme hits", Align::kRight});
    columns.push_back({"all hits", Align::kRight});
  }
  console::Table table(columns);
  const auto add = [&](const std::string& from, const auto& part) {
    std::vector<std::string> cells = {from, absl::StrCat(part.requests),
                                      absl::StrCat(part.references),
                                      Percent(Ratio(part.hits_host, part.references))};
    if (result.has_nvme) {
      cells.push_back(Percent(Ratio(part.hits_nvme, part.references)));
      cells.push_back(Percent(Ratio(part.hits_host + part.hits_nvme, part.references)));
    }
    table.AddRow(std::move(cells));
  };
  constexpr size_t kSlices = kReplaySlices / kTableRows;
  for (size_t row = 0; row < kTableRows; ++row) {
    ReplaySlice sum = result.slices[row * kSlices];
    for (size_t i = row * kSlices + 1; i < (row + 1) * kSlices; ++i) {
      sum.requests += result.slices[i].requests;
      sum.references += result.slices[i].references;
      sum.hits_host += result.slices[i].hits_host;
      sum.hits_nvme += result.slices[i].hits_nvme;
    }
    add(console::HumanDuration(sum.begin_seconds), sum);
  }
  table.AddRule();
  add("all", result);
  return table.Render();
}

std::string BytesTable(const ReplayResult& result) {
  console::Table table({{"bytes moved"}, {"blocks", Align::kRight}, {"bytes", Align::kRight}});
  const auto add = [&](const char* cause, uint64_t blocks) {
    table.AddRow({cause, absl::StrCat(blocks), base::FormatBytes(blocks * result.value_bytes)});
  };
  const auto add_bytes = [&](const char* cause, uint64_t bytes) {
    table.AddRow({cause, absl::StrCat(bytes / result.value_bytes), base::FormatBytes(bytes)});
  };
  add("got from host memory", result.hits_host);
  if (result.has_nvme) add("got from nvme", result.hits_nvme);
  add("put", result.puts);
  if (result.moved.has_value()) {
    const MovedBytes& moved = *result.moved;
    if (result.has_nvme) {
      add_bytes("to nvme, behind puts", moved.put);
      add_bytes("to nvme, to make room in memory", moved.demoted);
      add_bytes("back to memory, often read", moved.promoted);
      add_bytes("within nvme, to free files", moved.reclaimed);
      add_bytes("evicted from nvme", moved.evicted_nvme);
    }
    add_bytes("evicted from host memory", moved.evicted_host);
  }
  add("refused, no space", result.refused_puts);
  add("gone between look-up and get", result.late_misses);
  return table.Render();
}

std::string LatencyTable(const ReplayResult& result) {
  console::Table table({{"latency"},
                        {"count", Align::kRight},
                        {"p50 us", Align::kRight},
                        {"p90 us", Align::kRight},
                        {"p99 us", Align::kRight}});
  for (const Latency& latency : Latencies(result)) {
    const auto at = [&](double q) {
      return absl::StrFormat("%.0f", Quantile(latency.seconds, q) * 1e6);
    };
    table.AddRow({latency.what, absl::StrCat(latency.seconds.size()), at(0.5), at(0.9), at(0.99)});
  }
  return table.Render();
}

std::string NvmeLine(const ReplayOptions& options, const ReplayResult& result) {
  if (result.hits_nvme == 0) return "";
  const double tokens = NvmeTokensPerSecond(result);
  return absl::StrFormat(
      "\nfrom nvme %.0f tokens (%.2f GB) per second of get time: %.1f times as fast as recomputing "
      "%.0f tokens/s\n",
      tokens, tokens * options.bytes_per_token / 1e9, tokens / options.prefill_tokens_per_second,
      options.prefill_tokens_per_second);
}

}  // namespace

std::string StoreText(const TraceStoreOptions& store) {
  std::string text = absl::StrCat(store.eviction, ", ",
                                  base::FormatBytes(store.host_capacity_bytes), " of host memory");
  if (store.has_nvme()) {
    absl::StrAppend(&text, ", ", base::FormatBytes(store.nvme_capacity_bytes), " of nvme (",
                    store.nvme_policy(), ", durability ", store.durability, ", promoted after ",
                    store.promote_uses, " uses)");
  }
  return text;
}

nlohmann::json StoreJson(const TraceStoreOptions& store) {
  nlohmann::json fields = {{"policy", store.eviction},
                           {"host_capacity_bytes", store.host_capacity_bytes}};
  if (store.has_nvme()) {
    fields["nvme_capacity_bytes"] = store.nvme_capacity_bytes;
    fields["nvme_policy"] = store.nvme_policy();
    fields["durability"] = store.durability;
    fields["promote_uses"] = store.promote_uses;
  }
  return fields;
}

std::string ReplayTables(const ReplayOptions& options, const ReplayResult& result) {
  return absl::StrCat(options.engines, " engines, blocks of ",
                      base::FormatBytes(result.value_bytes), ", ",
                      console::HumanDuration(result.seconds), "\n\n", TimeTable(result), "\n",
                      BytesTable(result), "\n", LatencyTable(result), NvmeLine(options, result));
}

nlohmann::json ReplayJson(const ReplayOptions& options, const ReplayResult& result) {
  nlohmann::json row = {
      {"engines", options.engines},
      {"speed_up", options.speed_up},
      {"value_bytes", result.value_bytes},
      {"requests", result.requests},
      {"references", result.references},
      {"hit_ratio", Ratio(result.hits_host + result.hits_nvme, result.references)},
      {"hit_ratio_host", Ratio(result.hits_host, result.references)},
      {"hit_ratio_nvme", Ratio(result.hits_nvme, result.references)},
      {"bytes_got_host", result.hits_host * result.value_bytes},
      {"bytes_got_nvme", result.hits_nvme * result.value_bytes},
      {"bytes_put", result.puts * result.value_bytes},
      {"refused_puts", result.refused_puts},
      {"late_misses", result.late_misses},
      {"prefill_tokens_per_s", options.prefill_tokens_per_second},
      {"nvme_tokens_per_s", NvmeTokensPerSecond(result)},
      {"ratio_nvme_prefill", NvmeTokensPerSecond(result) / options.prefill_tokens_per_second},
      {"seconds", result.seconds}};
  if (result.moved.has_value()) {
    row["bytes_moved_put"] = result.moved->put;
    row["bytes_moved_demote"] = result.moved->demoted;
    row["bytes_moved_promote"] = result.moved->promoted;
    row["bytes_moved_reclaim"] = result.moved->reclaimed;
    row["bytes_evicted_host"] = result.moved->evicted_host;
    row["bytes_evicted_nvme"] = result.moved->evicted_nvme;
  }
  for (const Latency& latency : Latencies(result)) {
    for (const auto& [name, q] :
         {std::pair{"p50", 0.5}, std::pair{"p90", 0.9}, std::pair{"p99", 0.99}}) {
      row[absl::StrCat(latency.name, "_", name, "_us")] = Quantile(latency.seconds, q) * 1e6;
    }
  }
  row["over_time"] = nlohmann::json::array();
  for (const ReplaySlice& slice : result.slices) {
    row["over_time"].push_back({{"begin_seconds", slice.begin_seconds},
                                {"requests", slice.requests},
                                {"references", slice.references},
                                {"hits_host", slice.hits_host},
                                {"hits_nvme", slice.hits_nvme}});
  }
  return row;
}

std::string ReplayPlot(const ReplayResult& result) {
  const auto line = [&](const char* name, const auto& hits) {
    console::PlotLine points{.name = name, .points = {}};
    for (size_t i = 0; i < kReplaySlices; ++i) {
      const ReplaySlice& slice = result.slices[i];
      if (slice.references == 0) continue;
      points.points.emplace_back(static_cast<double>(i) + 0.5,
                                 Ratio(hits(slice), slice.references));
    }
    return points;
  };
  const double end = result.slices.back().begin_seconds * kReplaySlices / (kReplaySlices - 1);
  console::LinePlot plot{.title = "blocks found, by time in the trace",
                         .x_name = "",
                         .x_marks = {{0, "0"}, {kReplaySlices, console::HumanDuration(end)}},
                         .y_marks = {},
                         .lines = {}};
  for (int percent = 0; percent <= 100; percent += 20) {
    plot.y_marks.emplace_back(percent / 100.0, absl::StrCat(percent, " %"));
  }
  plot.lines.push_back(line("blocks found in host memory",
                            [](const ReplaySlice& slice) { return slice.hits_host; }));
  if (result.has_nvme) {
    plot.lines.push_back(line("in host memory or nvme", [](const ReplaySlice& slice) {
      return slice.hits_host + slice.hits_nvme;
    }));
  }
  return console::RenderSvg({plot});
}

}  // namespace varve::client
