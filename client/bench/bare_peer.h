// The bare transport loop that put and get are measured against: two processes, nothing but UCX
// between them. Over shm a put/get loop on UCX-allocated memory, over tcp an active-message loop.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/bench/measure.h"

namespace varve::client {

class BarePeer {
 public:
  // Starts the other process. put: bytes flow into the driving side, as a store reads a client's
  // values.
  static absl::StatusOr<std::unique_ptr<BarePeer>> Start(const std::string& transport, bool put,
                                                         uint64_t value_bytes, uint32_t batch,
                                                         uint64_t working_set_bytes);
  virtual ~BarePeer() = default;
  virtual absl::Status Round(double seconds, Series& series) = 0;
};

// Runs the other process when argv asks for it (a hidden subcommand); the exit code, or -1 when it
// does not.
int MaybeRunBarePeer(int argc, char** argv);

}  // namespace varve::client
