// The yardstick of benchmarks: the plainest UCX loop between two processes, with the same UCX
// settings as the transport's lanes and nothing else. shm: ucp_put / ucp_get into memory allocated
// by UCX. tcp: active messages with rendezvous (a put is one message; a get is a small request
// answered by one message).
//
// The two sides meet over a connected stream socket (a socketpair whose other end a child process
// inherited). Both sides poll without sleeping: give each a CPU of its own. Single-threaded.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::transport {

struct BareLoopOptions {
  std::string lane = "shm";          // "shm" or "tcp"
  std::vector<std::string> devices;  // of tcp; empty: all
  size_t bytes = 1 << 20;            // of one operation
  int batch = 16;                    // operations posted before the loop waits for all of them
  bool get = false;                  // the driving side reads; else it writes
  int rounds = 100;                  // batches measured
  int warm_up = 10;                  // batches before that
  size_t working_set_bytes = 0;  // memory that the driving side walks through; at least one batch
};

// The passive side. Returns when the driving side is done. INVALID_ARGUMENT for a lane it does not
// know.
absl::Status ServeBareLoop(const BareLoopOptions& options, int socket);

// The driving side, with the same options. Seconds that each measured batch took.
absl::StatusOr<std::vector<double>> DriveBareLoop(const BareLoopOptions& options, int socket);

}  // namespace varve::transport
