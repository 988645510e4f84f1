// nvme: what a disk gives through BlockIo, as the store uses it, against fio on the same file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/bench/bench.h"

namespace varve::client {

struct NvmeOptions {
  std::string directory;             // a file and a log are made there, and removed
  uint64_t file_bytes = 4ull << 30;  // of each; at least 64 MiB, and 8 MiB for each of a depth
  std::vector<uint32_t> depths = {16};
  std::vector<std::string> memory = {"small", "huge"};  // pages of the buffers
  std::string io = "io_uring";                          // or "threads"
  bool against_fio = false;
};

// Adds the subcommand with its flags. CLI::ValidationError for wrong ones while app parses.
void AddNvmeCommand(CLI::App& app, NvmeOptions& nvme);

// For each depth: sequential writes and random reads with each kind of memory, and appends to a
// segment log. In a row, `batch` is the depth, and latencies are of one operation.
absl::StatusOr<std::vector<BenchRow>> BenchNvme(const NvmeOptions& nvme, const BenchOptions& bench);

}  // namespace varve::client
