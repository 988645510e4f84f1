#include "client/bench/trace_command.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/bench/bench.h"
#include "client/bench/trace.h"
#include "client/bench/trace_replay.h"
#include "client/bench/trace_replay_report.h"
#include "client/bench/trace_simulation.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "client/console/table.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
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
  double cost_saved_ratio = 0;
  double of_belady = 0;  // hit_ratio, of the optimum's
  double accesses_per_second = 0;
};

std::vector<std::string> PolicyNames() {
  std::vector<std::string> names = store::EvictionPolicies().NameList();
  names.emplace_back(kBelady);
  return names;
}

double Ratio(double a, double b) { return b > 0 ? a / b : 0; }

CLI::Option* AddSize(CLI::App* sub, const std::string& flag, uint64_t& bytes,
                     const std::string& help) {
  return sub->add_option_function<std::string>(
      flag,
      [flag, &bytes](const std::string& text) {
        const auto parsed = base::ParseBytes(text);
        if (!parsed.ok()) throw CLI::ValidationError(flag, std::string(parsed.status().message()));
        bytes = *parsed;
      },
      help);
}

void AddReplayFlags(CLI::App* sub, ReplayOptions& replay) {
  sub->add_option("--engines", replay.engines, "Engines that send the requests")
      ->check(CLI::Range(1, 256));
  sub->add_option("--speed-up", replay.speed_up,
                  "Requests come so many times faster than recorded (default: each engine sends "
                  "its next when the last is served)")
      ->check(CLI::Range(0.001, 1e6));
  sub->add_option("--bytes-per-token", replay.bytes_per_token,
                  "Of the values: a block is 512 times as large (default 128)")
      ->check(CLI::Range(1, 128 << 10));
  TraceStoreOptions& store = replay.store;
  AddSize(sub, "--host-capacity", store.host_capacity_bytes,
          "Host memory of the store that is started (default 1GiB)");
  CLI::Option* capacity = AddSize(sub, "--nvme-capacity", store.nvme_capacity_bytes,
                                  "Also a tier on disk, so large; with --nvme-dir");
  CLI::Option* directory = sub->add_option("--nvme-dir", store.nvme_parent,
                                           "A directory of the disk; one is made there and removed")
                               ->check(CLI::ExistingDirectory)
                               ->needs(capacity);
  capacity->needs(directory);
  sub->add_option("--nvme-policy", store.nvme_eviction,
                  "Eviction policy of the disk (default: that of host memory)")
      ->check(CLI::IsMember(store::EvictionPolicies().NameList()))
      ->needs(directory);
  sub->add_option("--durability", store.durability,
                  "memory (default: values go to disk when they have to leave memory), nvme_async "
                  "or nvme_sync (all do)")
      ->check(CLI::IsMember({"memory", "nvme_async", "nvme_sync"}))
      ->needs(directory);
  sub->add_option("--promote-uses", store.promote_uses,
                  "A value on disk returns to memory when it was read so often lately (default 2), "
                  "0: never")
      ->check(CLI::Range(0, 15))
      ->needs(directory);
  sub->add_option("--prefill-tokens-per-second", replay.prefill_tokens_per_second,
                  "What an engine recomputes (default 10000), to compare the disk with: tokens of "
                  "the blocks that came from disk / time of the gets that had such blocks, from "
                  "call to return, summed over engines / this")
      ->check(CLI::Range(1.0, 1e9));
}

}  // namespace

struct TraceCommand::Options {
  std::string file;
  std::vector<std::string> policies;
  bool simulate = false;
  std::vector<uint32_t> capacity_blocks;
  ReplayOptions replay;
  std::string plot;

  absl::StatusOr<std::vector<Row>> Simulate(const Trace& trace) const;
  // What would only be seen after minutes.
  absl::Status CheckReplay(const BenchOptions& bench) const;
  absl::Status Replay(const Trace& trace, const BenchOptions& bench);
  // What a replay is for.
  std::vector<std::string> PoliciesOrDefault() const;
  std::string PlotFile(const std::string& policy) const;
};

TraceCommand::TraceCommand(CLI::App& app) : options_(std::make_unique<Options>()) {
  Options& o = *options_;
  CLI::App* sub = app.add_subcommand(
      "trace",
      "replay a recorded trace of block hashes against a store, or against policies alone");
  sub->add_option("FILE", o.file,
                  "JSON lines, gzip or not: timestamp (ms), input_length, output_length (tokens), "
                  "hash_ids (of 512-token blocks)")
      ->required();
  sub->add_option("--policies", o.policies,
                  "Eviction policies, comma separated, of " + absl::StrJoin(PolicyNames(), ", ") +
                      " (default lru; with --simulate all)")
      ->delimiter(',')
      ->check(CLI::IsMember(PolicyNames()));
  const size_t of_both = sub->get_options().size();
  AddReplayFlags(sub, o.replay);
  sub->add_option("--plot", o.plot,
                  "Also draw the hit ratio over time into this SVG file; of several policies, into "
                  "one for each: hits-lru.svg");
  std::vector<CLI::Option*> replayed = sub->get_options();
  replayed.erase(replayed.begin(), replayed.begin() + static_cast<long>(of_both));
  for (const char* name :
       {"--store", "--force", "--transport", "--rounds", "--seconds", "--batch"}) {
    replayed.push_back(app.get_option(name));
  }
  CLI::Option* simulate =
      sub->add_flag("--simulate", o.simulate, "Eviction policies alone: no store, no bytes");
  sub->add_option("--capacity-blocks", o.capacity_blocks,
                  "With --simulate: sizes of the cache, comma separated (default 2, 10 and 30 % of "
                  "the distinct blocks)")
      ->delimiter(',')
      ->check(CLI::Range(1u, 1u << 31))
      ->needs(simulate);
  for (CLI::Option* option : replayed) simulate->excludes(option);
}

TraceCommand::~TraceCommand() = default;

absl::StatusOr<std::vector<Row>> TraceCommand::Options::Simulate(const Trace& trace) const {
  const std::vector<std::string> names = policies.empty() ? PolicyNames() : policies;
  std::vector<uint32_t> capacities = capacity_blocks;
  if (capacities.empty()) {
    for (const double share : kDefaultShares) {
      capacities.push_back(std::max(1u, static_cast<uint32_t>(share * trace.distinct_blocks)));
    }
  }
  std::vector<Row> rows;
  const auto policies_alone = static_cast<uint64_t>(std::count_if(
      names.begin(), names.end(), [](const std::string& name) { return name != kBelady; }));
  console::Progress progress("simulating", capacities.size() * (policies_alone + 1));
  uint64_t done = 0;
  for (const uint32_t capacity : capacities) {
    const auto simulate = [&](const std::string& policy) {
      progress.Update(done++, absl::StrCat(policy, ", ", capacity, " blocks"));
      return SimulateCache(trace, policy, capacity);
    };
    VARVE_ASSIGN_OR_RETURN(const SimulatedCache optimum, simulate(std::string(kBelady)));
    for (const std::string& policy : names) {
      VARVE_RETURN_IF_ERROR(console::CheckStopped());
      Row row{.policy = policy, .capacity_blocks = capacity};
      if (policy == kBelady) {
        row.cache = optimum;
      } else {
        VARVE_ASSIGN_OR_RETURN(row.cache, simulate(policy));
      }
      const auto references = static_cast<double>(trace.references);
      row.hit_ratio = Ratio(static_cast<double>(row.cache.hits), references);
      row.prefix_hit_ratio = Ratio(static_cast<double>(row.cache.prefix_hits), references);
      row.cost_saved_ratio = Ratio(row.cache.saved_cost, row.cache.whole_cost);
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
                        {"cost saved", Align::kRight},
                        {"accesses/s", Align::kRight}});
  for (const Row& row : rows) {
    if (&row != rows.data() && row.capacity_blocks != (&row - 1)->capacity_blocks) table.AddRule();
    table.AddRow({absl::StrCat(row.capacity_blocks), row.policy,
                  absl::StrFormat("%.2f %%", 100 * row.hit_ratio),
                  absl::StrFormat("%.1f %%", 100 * row.of_belady),
                  absl::StrFormat("%.2f %%", 100 * row.prefix_hit_ratio),
                  absl::StrFormat("%.2f %%", 100 * row.cost_saved_ratio),
                  absl::StrFormat("%.1f M", row.accesses_per_second / 1e6)});
  }
  std::cout << table.Render();
}

nlohmann::json TraceJson(const Trace& trace) {
  return {{"requests", trace.requests.size()},
          {"references", trace.references},
          {"distinct_blocks", trace.distinct_blocks},
          {"block_tokens", kTraceBlockTokens}};
}

absl::Status NotWritten(const std::string& file) {
  return absl::UnavailableError(absl::StrCat(file, ": cannot be written"));
}

void PrintJson(const Trace& trace, const std::vector<Row>& rows) {
  nlohmann::json document;
  document["trace"] = TraceJson(trace);
  document["results"] = nlohmann::json::array();
  for (const Row& row : rows) {
    document["results"].push_back({{"policy", row.policy},
                                   {"capacity_blocks", row.capacity_blocks},
                                   {"hits", row.cache.hits},
                                   {"hit_ratio", row.hit_ratio},
                                   {"prefix_hit_ratio", row.prefix_hit_ratio},
                                   {"cost_saved_ratio", row.cost_saved_ratio},
                                   {"ratio_belady", row.of_belady},
                                   {"accesses_per_s", row.accesses_per_second}});
  }
  std::cout << document.dump(2) << '\n';
}

}  // namespace

absl::Status TraceCommand::Options::CheckReplay(const BenchOptions& bench) const {
  if (!bench.store.empty() && !policies.empty()) {
    return absl::InvalidArgumentError("--policies: the store at --store has its own");
  }
  if (std::count(policies.begin(), policies.end(), kBelady) > 0) {
    return absl::InvalidArgumentError("--policies: belady knows the future: only --simulate");
  }
  if (plot.empty()) return absl::OkStatus();
  const std::string extension = std::filesystem::path(plot).extension();
  if (!extension.empty() && extension != ".svg") {
    return absl::InvalidArgumentError(
        absl::StrCat("--plot: '", plot, "': plots are SVG; allowed: names that end in .svg"));
  }
  for (const std::string& policy : PoliciesOrDefault()) {
    const std::string file = PlotFile(policy);
    if (!std::ofstream(file, std::ios::app)) return NotWritten(file);
  }
  return absl::OkStatus();
}

std::vector<std::string> TraceCommand::Options::PoliciesOrDefault() const {
  return policies.empty() ? std::vector<std::string>{"lru"} : policies;
}

std::string TraceCommand::Options::PlotFile(const std::string& policy) const {
  if (policies.size() < 2) return plot;
  const std::filesystem::path path(plot);
  return path.parent_path() /
         absl::StrCat(path.stem().string(), "-", policy, path.extension().string());
}

absl::Status TraceCommand::Options::Replay(const Trace& trace, const BenchOptions& bench) {
  nlohmann::json rows = nlohmann::json::array();
  // What was measured is printed all the same.
  absl::Status failed;
  for (const std::string& policy : PoliciesOrDefault()) {
    replay.store.eviction = policy;
    const absl::StatusOr<ReplayResult> result = ReplayTrace(trace, bench, replay);
    if (!result.ok()) {
      failed = result.status();
      break;
    }
    if (!plot.empty()) {
      std::ofstream file(PlotFile(policy));
      file << ReplayPlot(*result);
      if (!file.flush()) failed.Update(NotWritten(PlotFile(policy)));
    }
    if (bench.json) {
      rows.push_back(ReplayJson(replay, *result));
      if (bench.store.empty()) rows.back().update(StoreJson(replay.store));
      continue;
    }
    if (bench.store.empty()) std::cout << StoreText(replay.store) << ", ";
    std::cout << ReplayTables(replay, *result) << '\n';
  }
  if (bench.json && !rows.empty())
    std::cout << nlohmann::json{{"trace", TraceJson(trace)}, {"results", rows}}.dump(2) << '\n';
  return failed;
}

absl::Status TraceCommand::Run(const BenchOptions& bench) {
  VARVE_ASSIGN_OR_RETURN(const Trace trace, ReadTrace(options_->file));
  if (!options_->simulate) {
    VARVE_RETURN_IF_ERROR(options_->CheckReplay(bench));
    return options_->Replay(trace, bench);
  }
  VARVE_ASSIGN_OR_RETURN(const std::vector<Row> rows, options_->Simulate(trace));
  bench.json ? PrintJson(trace, rows) : PrintTable(trace, rows);
  return absl::OkStatus();
}

}  // namespace varve::client
