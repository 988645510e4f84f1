#include "client/bench/trace_command.h"

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/bench/trace.h"
#include "client/bench/trace_simulation.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "client/console/table.h"
#include "kvstore/base/status.h"
#include "kvstore/store/eviction_policy.h"
#include "nlohmann/json.hpp"

namespace varve::client {
namespace {

// Of the trace's distinct blocks.
constexpr double kDefaultShares[] = {0.02, 0.1, 0.3};

struct Row {
  std::string policy;
  uint32_t capacity_blocks = 0;
  SimulatedCache cache;
  double hit_ratio = 0;
  double prefix_hit_ratio = 0;
  double of_belady = 0;  // hit_ratio, of the optimum's
  double accesses_per_second = 0;
};

std::vector<std::string> PolicyNames() {
  std::vector<std::string> names;
  for (const auto& [name, row] : store::EvictionPolicies().rows()) names.push_back(name);
  names.emplace_back(kBelady);
  return names;
}

double Ratio(double a, double b) { return b > 0 ? a / b : 0; }

}  // namespace

struct TraceCommand::Options {
  std::string file;
  bool simulate = false;
  std::vector<std::string> policies = PolicyNames();
  std::vector<uint32_t> capacity_blocks;

  absl::StatusOr<std::vector<Row>> Simulate(const Trace& trace) const;
};

TraceCommand::TraceCommand(CLI::App& app) : options_(std::make_unique<Options>()) {
  CLI::App* sub = app.add_subcommand("trace", "replay a recorded trace of block hashes");
  sub->add_option("FILE", options_->file,
                  "JSON lines, gzip or not: timestamp (ms), input_length, output_length (tokens), "
                  "hash_ids (of 512-token blocks)")
      ->required();
  sub->add_flag("--simulate", options_->simulate, "Eviction policies alone: no store, no bytes")
      ->required();
  sub->add_option("--policies", options_->policies,
                  "Comma separated, of " + absl::StrJoin(PolicyNames(), ", ") + " (default all)")
      ->delimiter(',')
      ->check(CLI::IsMember(PolicyNames()));
  sub->add_option("--capacity-blocks", options_->capacity_blocks,
                  "Sizes of the cache, comma separated (default 2, 10 and 30 % of the distinct "
                  "blocks)")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1u << 31));
}

TraceCommand::~TraceCommand() = default;

absl::StatusOr<std::vector<Row>> TraceCommand::Options::Simulate(const Trace& trace) const {
  std::vector<uint32_t> capacities = capacity_blocks;
  if (capacities.empty()) {
    for (const double share : kDefaultShares) {
      capacities.push_back(std::max(1u, static_cast<uint32_t>(share * trace.distinct_blocks)));
    }
  }
  std::vector<Row> rows;
  console::Progress progress("simulating", capacities.size() * (policies.size() + 1));
  uint64_t done = 0;
  for (const uint32_t capacity : capacities) {
    const auto simulate = [&](const std::string& policy) {
      progress.Update(done++, absl::StrCat(policy, ", ", capacity, " blocks"));
      return SimulateCache(trace, policy, capacity);
    };
    VARVE_ASSIGN_OR_RETURN(const SimulatedCache optimum, simulate(std::string(kBelady)));
    for (const std::string& policy : policies) {
      VARVE_RETURN_IF_ERROR(console::CheckStopped());
      Row row{.policy = policy, .capacity_blocks = capacity};
      VARVE_ASSIGN_OR_RETURN(row.cache, simulate(policy));
      const auto references = static_cast<double>(trace.references);
      row.hit_ratio = Ratio(static_cast<double>(row.cache.hits), references);
      row.prefix_hit_ratio = Ratio(static_cast<double>(row.cache.prefix_hits), references);
      row.of_belady = Ratio(static_cast<double>(row.cache.hits), static_cast<double>(optimum.hits));
      row.accesses_per_second = Ratio(references, row.cache.seconds);
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

namespace {

void PrintTable(const Trace& trace, const std::vector<Row>& rows) {
  using console::Align;
  std::cout << trace.requests.size() << " requests, " << trace.references << " block references to "
            << trace.distinct_blocks << " distinct blocks of " << kTraceBlockTokens
            << " tokens; without a limit "
            << absl::StrFormat("%.1f %%", 100 * (1 - Ratio(trace.distinct_blocks,
                                                           static_cast<double>(trace.references))))
            << " of the references would hit\n\n";
  console::Table table({{"blocks", Align::kRight},
                        {"policy"},
                        {"hits", Align::kRight},
                        {"of belady", Align::kRight},
                        {"whole prefix", Align::kRight},
                        {"accesses/s", Align::kRight}});
  for (const Row& row : rows) {
    if (&row != rows.data() && row.capacity_blocks != (&row - 1)->capacity_blocks) table.AddRule();
    table.AddRow({absl::StrCat(row.capacity_blocks), row.policy,
                  absl::StrFormat("%.2f %%", 100 * row.hit_ratio),
                  absl::StrFormat("%.1f %%", 100 * row.of_belady),
                  absl::StrFormat("%.2f %%", 100 * row.prefix_hit_ratio),
                  absl::StrFormat("%.1f M", row.accesses_per_second / 1e6)});
  }
  std::cout << table.Render();
}

void PrintJson(const Trace& trace, const std::vector<Row>& rows) {
  nlohmann::json document;
  document["trace"] = {{"requests", trace.requests.size()},
                       {"references", trace.references},
                       {"distinct_blocks", trace.distinct_blocks},
                       {"block_tokens", kTraceBlockTokens}};
  document["results"] = nlohmann::json::array();
  for (const Row& row : rows) {
    document["results"].push_back({{"policy", row.policy},
                                   {"capacity_blocks", row.capacity_blocks},
                                   {"hits", row.cache.hits},
                                   {"hit_ratio", row.hit_ratio},
                                   {"prefix_hit_ratio", row.prefix_hit_ratio},
                                   {"ratio_belady", row.of_belady},
                                   {"accesses_per_s", row.accesses_per_second}});
  }
  std::cout << document.dump(2) << '\n';
}

}  // namespace

absl::Status TraceCommand::Run(bool json) const {
  VARVE_ASSIGN_OR_RETURN(const Trace trace, ReadTrace(options_->file));
  VARVE_ASSIGN_OR_RETURN(const std::vector<Row> rows, options_->Simulate(trace));
  json ? PrintJson(trace, rows) : PrintTable(trace, rows);
  return absl::OkStatus();
}

}  // namespace varve::client
