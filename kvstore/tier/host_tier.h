// The host-memory tier: one arena and slots in it.
//
// Threads: as tier.h. The arena's address never changes. It is plain memory, touched at start or
// when the tier grows; what of it a transport must know, the transport registers itself (UCX sees
// by its hooks when memory is given back).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kvstore/tier/tier.h"

namespace varve::tier {

struct HostTierOptions {
  uint64_t capacity_bytes = 0;           // rounded down to slot_alignment_bytes
  uint64_t max_capacity_bytes = 0;       // that it may grow to; 0: capacity_bytes
  bool huge_pages = false;               // transparent huge pages, where the kernel has them
  uint64_t slot_alignment_bytes = 4096;  // a power of two, at least 64
  uint32_t prefault_threads = 0;  // touch every page at start; 0: one thread per core, at most 8
};

class HostTier : public Tier {
 public:
  // INVALID_ARGUMENT for sizes that make no sense; RESOURCE_EXHAUSTED, naming the limit, when the
  // machine or the process's cgroup does not have the memory. Pages are touched now, so that no
  // transfer pays for page faults.
  static absl::StatusOr<std::unique_ptr<HostTier>> Create(const HostTierOptions& options);

  // As far as it may be touched.
  virtual std::span<std::byte> memory() const = 0;

  // ---- size, rounded down to slot_alignment_bytes. One call at a time.
  // May be less than HostTierOptions said: the system limits a process's addresses.
  uint64_t max_capacity_bytes() const { return max_capacity_bytes_; }
  // Takes memory from the system and touches it, which may take seconds. INVALID_ARGUMENT for less
  // than the capacity or more than max_capacity_bytes; RESOURCE_EXHAUSTED, naming the limit, when
  // there is no memory; CANCELLED after StopGrowing: then nothing has changed.
  virtual absl::Status Grow(uint64_t capacity_bytes) = 0;
  // A Grow that touches memory gives up soon, and so does every later one. From any thread.
  virtual void StopGrowing() = 0;
  // Nothing is reserved beyond the new capacity from now on; what is, stays until it is freed.
  // INVALID_ARGUMENT for more than the capacity, or no room for one slot.
  virtual absl::Status Shrink(uint64_t capacity_bytes) = 0;
  // Gives memory beyond the capacity back to the system. False, and not done, as long as slots
  // reach into it.
  virtual bool ReleaseBeyond() = 0;

 protected:
  using Tier::Tier;
};

}  // namespace varve::tier
