// A trace against a real store: engines look for the longest stored prefix of each request, get it,
// and put the rest, with values of the size that the KV of a block would have.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/bench/bench.h"
#include "client/bench/trace.h"

namespace varve::client {

struct ReplayOptions {
  uint32_t engines = 4;  // threads, each with a session of its own
  double speed_up = 0;   // requests come so many times faster than recorded; 0: one after the other
  uint32_t bytes_per_token = 128;
  uint64_t host_capacity_bytes = 1ull << 30;  // of the store that is started
  std::string eviction = "lru";               // its policy
};

inline constexpr size_t kReplaySlices = 60;  // of the trace's time

struct ReplaySlice {
  double begin_seconds = 0;  // in the trace
  uint64_t requests = 0;
  uint64_t references = 0;
  uint64_t hits_host = 0;
};

struct ReplayResult {
  uint64_t value_bytes = 0;
  std::array<ReplaySlice, kReplaySlices> slices;
  uint64_t requests = 0;
  uint64_t references = 0;    // to blocks
  uint64_t hits_host = 0;     // blocks that came from host memory, whole and right
  uint64_t late_misses = 0;   // blocks that were gone between the look-up and the get
  uint64_t puts = 0;          // blocks stored
  uint64_t refused_puts = 0;  // no space
  uint64_t evicted = 0;       // blocks; 0 when the store is somebody else's
  double seconds = 0;         // that the replay took
  // One of each a request, where there was something to do.
  std::vector<double> lookup_seconds, get_seconds, put_seconds;
};

// DATA_LOSS when a value came with the bytes of another block; CANCELLED by a signal. What was
// stored in somebody else's store is removed again.
absl::StatusOr<ReplayResult> ReplayTrace(const Trace& trace, const BenchOptions& bench,
                                         const ReplayOptions& options);

}  // namespace varve::client
