#include "client/bench/trace_replay_report.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/bench/measure.h"
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
  const char* name;
  const std::vector<double>& seconds;
};
std::vector<Latency> Latencies(const ReplayResult& result) {
  return {
      {"lookup", result.lookup_seconds}, {"get", result.get_seconds}, {"put", result.put_seconds}};
}

std::string TimeTable(const ReplayResult& result) {
  console::Table table({{"from", Align::kRight},
                        {"requests", Align::kRight},
                        {"blocks", Align::kRight},
                        {"host hits", Align::kRight}});
  constexpr size_t kSlices = kReplaySlices / kTableRows;
  for (size_t row = 0; row < kTableRows; ++row) {
    ReplaySlice sum = result.slices[row * kSlices];
    for (size_t i = row * kSlices + 1; i < (row + 1) * kSlices; ++i) {
      sum.requests += result.slices[i].requests;
      sum.references += result.slices[i].references;
      sum.hits_host += result.slices[i].hits_host;
    }
    table.AddRow({console::HumanDuration(sum.begin_seconds), absl::StrCat(sum.requests),
                  absl::StrCat(sum.references), Percent(Ratio(sum.hits_host, sum.references))});
  }
  table.AddRule();
  table.AddRow({"all", absl::StrCat(result.requests), absl::StrCat(result.references),
                Percent(Ratio(result.hits_host, result.references))});
  return table.Render();
}

std::string BytesTable(const ReplayResult& result) {
  console::Table table({{"bytes moved"}, {"blocks", Align::kRight}, {"bytes", Align::kRight}});
  const auto add = [&](const char* cause, uint64_t blocks) {
    table.AddRow({cause, absl::StrCat(blocks), base::FormatBytes(blocks * result.value_bytes)});
  };
  add("got from host memory", result.hits_host);
  add("put", result.puts);
  add("evicted from host memory", result.evicted);
  add("refused, no space", result.refused_puts);
  add("gone between look-up and get", result.late_misses);
  return table.Render();
}

std::string LatencyTable(const ReplayResult& result) {
  console::Table table({{"per request"},
                        {"count", Align::kRight},
                        {"p50 us", Align::kRight},
                        {"p90 us", Align::kRight},
                        {"p99 us", Align::kRight}});
  for (const Latency& latency : Latencies(result)) {
    const auto at = [&](double q) {
      return absl::StrFormat("%.0f", Quantile(latency.seconds, q) * 1e6);
    };
    table.AddRow({latency.name, absl::StrCat(latency.seconds.size()), at(0.5), at(0.9), at(0.99)});
  }
  return table.Render();
}

}  // namespace

std::string ReplayTables(const ReplayOptions& options, const ReplayResult& result) {
  return absl::StrCat(options.engines, " engines, blocks of ",
                      base::FormatBytes(result.value_bytes), ", ",
                      console::HumanDuration(result.seconds), "\n\n", TimeTable(result), "\n",
                      BytesTable(result), "\n", LatencyTable(result));
}

nlohmann::json ReplayJson(const ReplayOptions& options, const ReplayResult& result) {
  nlohmann::json row = {{"engines", options.engines},
                        {"speed_up", options.speed_up},
                        {"value_bytes", result.value_bytes},
                        {"requests", result.requests},
                        {"references", result.references},
                        {"hit_ratio", Ratio(result.hits_host, result.references)},
                        {"hit_ratio_host", Ratio(result.hits_host, result.references)},
                        {"bytes_got_host", result.hits_host * result.value_bytes},
                        {"bytes_put", result.puts * result.value_bytes},
                        {"bytes_evicted_host", result.evicted * result.value_bytes},
                        {"refused_puts", result.refused_puts},
                        {"late_misses", result.late_misses},
                        {"seconds", result.seconds}};
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
                                {"hits_host", slice.hits_host}});
  }
  return row;
}

std::string ReplayPlot(const ReplayResult& result) {
  constexpr int kLeft = 50, kTop = 20, kWidth = 640, kHeight = 280;
  const auto y = [&](double ratio) { return kTop + kHeight * (1 - ratio); };
  std::string svg = absl::StrFormat(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">)"
      "\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      kLeft + kWidth + 20, kTop + kHeight + 50);
  for (int percent = 0; percent <= 100; percent += 20) {
    const double at = y(percent / 100.0);
    absl::StrAppendFormat(&svg,
                          "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>"
                          "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d %%</text>\n",
                          kLeft, kLeft + kWidth, at, at, kLeft - 6, at + 4, percent);
  }
  std::string points;
  for (size_t i = 0; i < kReplaySlices; ++i) {
    const ReplaySlice& slice = result.slices[i];
    if (slice.references == 0) continue;
    absl::StrAppendFormat(&points, "%.1f,%.1f ",
                          kLeft + kWidth * (static_cast<double>(i) + 0.5) / kReplaySlices,
                          y(Ratio(slice.hits_host, slice.references)));
  }
  const double end = result.slices.back().begin_seconds * kReplaySlices / (kReplaySlices - 1);
  absl::StrAppendFormat(
      &svg,
      "<polyline fill=\"none\" stroke=\"#1f77b4\" stroke-width=\"2\" points=\"%s\"/>\n"
      "<text x=\"%d\" y=\"%d\">0</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n"
      "<text x=\"%d\" y=\"%d\">blocks found in host memory, by time in the trace</text>\n</svg>\n",
      points, kLeft, kTop + kHeight + 18, kLeft + kWidth, kTop + kHeight + 18,
      console::HumanDuration(end), kLeft, kTop + kHeight + 38);
  return svg;
}

}  // namespace varve::client
