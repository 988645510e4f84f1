// speculate: what a decode step costs whose pages are recalled on demand, or fetched ahead while
// the step before computes, against a step that recalls nothing. An engine in miniature, with a
// worker linked in: its model computes for a given time, spread over the layers; its queries turn
// by a given cosine from step to step. Also what the first step of a second turn fetches on demand:
// cold, warmed by its queries, and resumed with the hot set of the turn before.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/bench/bench.h"

namespace varve::client {

struct SpeculateOptions {
  std::vector<double> compute_ms = {1, 2, 4};
  uint32_t layers = 8;
  uint32_t pages = 256;
  uint32_t kv_heads = 4;
  uint32_t group_size = 4;
  uint32_t head_dim = 128;
  uint32_t budget_pages = 32;
  double hot = 1.5;
  std::string policy_parameters;  // added to those that recall
  double cosine = 0.95;  // of a query with that of the step before
  double tau = 0.85;
  double ahead = 0.25;
  uint32_t prefetch_layers = 0;
  std::string recall_path = "store";
};

// Adds the subcommand with its flags.
void AddSpeculateCommand(CLI::App& app, SpeculateOptions& speculate);

// Rows for each compute time: without recall, on demand, speculating.
absl::StatusOr<std::vector<BenchRow>> BenchSpeculate(const SpeculateOptions& speculate,
                                                     const BenchOptions& bench);

}  // namespace varve::client
