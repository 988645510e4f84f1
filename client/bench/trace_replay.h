// A trace against a real store: engines look for the longest stored prefix of each request, get it,
// and put the rest, with values of the size that the KV of a block would have.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "client/bench/bench.h"
#include "client/bench/trace.h"
#include "client/bench/trace_store.h"

namespace varve::client {

struct ReplayOptions {
  uint32_t engines = 4;  // threads, each with a session of its own
  double speed_up = 0;   // requests come so many times faster than recorded; 0: one after the other
  uint32_t bytes_per_token = 128;
  double prefill_tokens_per_second = 10000;  // what a block on disk is compared with
  TraceStoreOptions store;
};

inline constexpr size_t kReplaySlices = 60;  // of the trace's time

struct ReplaySlice {
  double begin_seconds = 0;  // in the trace
  uint64_t requests = 0;
  uint64_t references = 0;
  uint64_t hits_host = 0;
  uint64_t hits_nvme = 0;
};

struct ReplayResult {
  uint64_t value_bytes = 0;
  bool has_nvme = false;  // the store has that tier
  std::array<ReplaySlice, kReplaySlices> slices;
  uint64_t requests = 0;
  uint64_t references = 0;          // to blocks
  uint64_t hits_host = 0;           // blocks that came from host memory, whole and right
  uint64_t hits_nvme = 0;           // those that came from disk
  uint64_t late_misses = 0;         // blocks that were gone between the look-up and the get
  uint64_t puts = 0;                // blocks stored
  uint64_t refused_puts = 0;        // no space
  std::optional<MovedBytes> moved;  // none of somebody else's store
  double seconds = 0;               // that the replay took
  // One of each a request, where there was something to do.
  std::vector<double> lookup_seconds, get_seconds, put_seconds;
  // One a get of up to 16 blocks: what came from host memory alone, and what came from disk in part
  // or whole.
  std::vector<double> host_batch_seconds, nvme_batch_seconds;
};

// DATA_LOSS when a value came with the bytes of another block; CANCELLED by a signal. What was
// stored in somebody else's store is removed again.
absl::StatusOr<ReplayResult> ReplayTrace(const Trace& trace, const BenchOptions& bench,
                                         const ReplayOptions& options);

}  // namespace varve::client
