// fio as a peer: the same reads and writes of the same file by io_uring with registered memory and
// files.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::client {

struct FioJob {
  std::string path;  // a file of file_bytes; fio's report is written beside it, and removed
  uint64_t file_bytes = 0;
  bool read = false;  // random reads; else writes from the file's beginning to its end
  uint64_t block_bytes = 0;
  uint32_t depth = 1;
  double seconds = 1;
};

struct FioResult {
  double bytes_per_second = 0;
  double p50_seconds = 0;  // of an operation, from its submission
  double p99_seconds = 0;
};

// NOT_FOUND, with the package to install, when there is no fio.
absl::Status CheckFio();
// Runs fio to its end. INTERNAL: it failed, or its report is not what is known; CANCELLED by a
// signal.
absl::StatusOr<FioResult> RunFio(const FioJob& job);

}  // namespace varve::client
