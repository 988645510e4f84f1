// Memory of this process that a peer may name by region id.
//
// Thread-safe. Memory handed out by Pin stays mapped until Unpin: Remove waits for that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/base/mutex.h"

namespace varve::transport {

class RegionTable {
 public:
  // Returns the new region's id: random, never 0.
  uint64_t Add(std::span<std::byte> memory);

  // Pins [offset, offset + length) of a region. UNAVAILABLE when there is no such region (any
  // more), OUT_OF_RANGE when the range leaves it.
  absl::StatusOr<std::byte*> Pin(uint64_t id, uint64_t offset, uint64_t length);
  void Unpin(uint64_t id);

  // No Pin succeeds from here on. True when the last pin is gone; false when it was not within
  // `grace`: call again.
  bool Remove(uint64_t id, absl::Duration grace);

 private:
  struct Entry {
    std::span<std::byte> memory;
    int pins = 0;
    bool removed = false;
  };

  base::Mutex mutex_;
  base::CondVar unpinned_;
  absl::flat_hash_map<uint64_t, Entry> regions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::transport
