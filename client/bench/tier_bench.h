// tiers: what the nvme tier costs and gives: filling it, restarts, gets from it, and what clients
// of host memory notice while the store moves objects as fast as the disk takes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/bench/bench.h"

namespace varve::client {

struct TierBenchOptions {
  std::string directory;  // the store's own is made in it, and removed
  uint64_t objects = 20000;
  uint64_t value_bytes = 128 << 10;
  std::string io = "auto";
};

// Adds the subcommand with its flags. CLI::ValidationError for wrong ones while app parses.
void AddTiersCommand(CLI::App& app, TierBenchOptions& tiers);

// Rows: fill, restart from footers, restart by scan (objects per second), get from host memory and
// from disk, get from host memory under pressure.
absl::StatusOr<std::vector<BenchRow>> BenchTiers(const TierBenchOptions& tiers,
                                                 const BenchOptions& bench);

}  // namespace varve::client
