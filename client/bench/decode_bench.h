// decode: what one layer of a decode step costs at a long context, by stage, against attention to
// all tokens on the same cores in the same run, and against what each stage has to read, copy and
// multiply at the speeds of these cores. The queries turn from step to step by as much as leaves a
// given share of the selected pages resident.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/bench/bench.h"

namespace varve::client {

struct DecodeOptions {
  uint32_t tokens = 32768;
  std::vector<uint32_t> batches = {1, 2, 4};
  uint32_t kv_heads = 8;
  uint32_t group_size = 4;
  uint32_t head_dim = 128;
  uint32_t budget_tokens = 2048;
  double hits = 0.6;
  std::vector<std::string> policies = {"arkvale", "shadowkv"};
  uint32_t page_tokens = 32;
  uint32_t chunk_tokens = 8;  // pages of shadowkv
  uint32_t rank = 160;
  uint32_t attend_threads = 0;
  uint64_t flush_bytes = 256ull << 20;
};

// Adds the subcommand with its flags.
void AddDecodeCommand(CLI::App& app, DecodeOptions& decode);

// Rows for each batch: dense, then the policies.
absl::StatusOr<std::vector<BenchRow>> BenchDecode(const DecodeOptions& decode,
                                                  const BenchOptions& bench);

// The rows as text, a line for each stage.
std::string DecodeTable(const std::vector<BenchRow>& rows);

}  // namespace varve::client
