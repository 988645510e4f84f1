// The store that a trace is replayed against: somebody else's, or one that is started with a tier
// in host memory, one on disk below it or not, and thrown away with all it holds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/bench/bench.h"
#include "client/bench/folder.h"

namespace varve::client {

// Of a store that is started.
struct TraceStoreOptions {
  uint64_t host_capacity_bytes = 1ull << 30;
  std::string eviction = "lru";
  std::string nvme_parent;  // the tier's directory is made in this one; empty: no such tier
  uint64_t nvme_capacity_bytes = 0;
  std::string nvme_eviction;  // empty: that of host memory
  std::string durability = "memory";
  uint32_t promote_uses = 2;

  bool has_nvme() const { return !nvme_parent.empty(); }
  const std::string& nvme_policy() const {
    return nvme_eviction.empty() ? eviction : nvme_eviction;
  }
};

// Bytes of values by why they moved, since the store started.
struct MovedBytes {
  uint64_t put = 0;                             // to disk, behind puts
  uint64_t demoted = 0;                         // to disk, to make room in memory
  uint64_t promoted = 0;                        // to memory, because they were read often
  uint64_t reclaimed = 0;                       // from disk to disk, to free files
  uint64_t evicted_host = 0, evicted_nvme = 0;  // lost, to make room
};

class TraceStore {
 public:
  // INVALID_ARGUMENT: a disk that is too small for values of this size.
  static absl::StatusOr<std::unique_ptr<TraceStore>> Open(const BenchOptions& bench,
                                                          const TraceStoreOptions& options,
                                                          uint64_t value_bytes);
  ~TraceStore();
  TraceStore(const TraceStore&) = delete;
  TraceStore& operator=(const TraceStore&) = delete;

  const BenchStore& store() const { return store_; }
  // REQUIRES: !store().shared().
  absl::StatusOr<MovedBytes> Moved() const;

 private:
  TraceStore(std::unique_ptr<Folder> folder, BenchStore store)
      : folder_(std::move(folder)), store_(std::move(store)) {}

  const std::unique_ptr<Folder> folder_;  // outlives the process
  const BenchStore store_;
};

}  // namespace varve::client
