// Where bytes rest: a place with slots. A tier knows no keys and no policy.
//
// Threads: every method may be called from any thread. A slot belongs to whoever reserved it until
// Free. Done runs exactly once, never under a tier lock: before the call returns (host, and every
// error of the arguments), or later on a thread of the tier's own, which it must not block (gpu).
// Until then the bytes and the slot stay as they are. Misuse: freeing a slot twice, or one that
// this tier never gave out, changes nothing but TierUsage::rejected_frees and a line in the log: a
// lost slot is cheaper than a dead store. Map, Write and Read check bounds only; using a slot after
// Free reads or writes bytes of its next owner.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::tier {

// A reserved piece of a tier. generation differs each time the same place is reserved again.
struct Slot {
  uint64_t offset = 0;
  uint64_t bytes = 0;  // as asked for
  uint64_t generation = 0;
  uint64_t extent_bytes = 0;  // what the tier uses for it, from `offset` on: `bytes` rounded up
};

struct TierUsage {
  uint64_t capacity_bytes = 0;
  uint64_t used_bytes = 0;          // reserved, rounding and what is beyond the capacity included
  uint64_t free_bytes = 0;          // inside the capacity
  uint64_t largest_free_bytes = 0;  // the biggest slot that can be reserved now
  uint64_t slots = 0;
  uint64_t beyond_bytes = 0;    // of slots that reach beyond the capacity, which has been lowered
  uint64_t rejected_frees = 0;  // Free of something that is not reserved: a bug of the caller
};

class Tier {
 public:
  using Done = absl::AnyInvocable<void(absl::Status) &&>;
  virtual ~Tier() = default;
  Tier(const Tier&) = delete;
  Tier& operator=(const Tier&) = delete;

  virtual const char* name() const = 0;  // "host", "nvme", "gpu"
  // Changes only in tiers that can be resized (host_tier.h).
  uint64_t capacity_bytes() const { return capacity_bytes_.load(std::memory_order_relaxed); }

  // RESOURCE_EXHAUSTED when no hole is big enough; INVALID_ARGUMENT for 0 bytes or more than the
  // capacity.
  absl::StatusOr<Slot> Reserve(uint64_t bytes);
  void Free(const Slot& slot);
  // The slot's memory; empty for tiers that cannot be addressed. That of the gpu is for the device,
  // not for the CPU.
  std::span<std::byte> Map(const Slot& slot);
  // Copies in or out, starting at offset inside the slot. OUT_OF_RANGE when it does not fit the
  // slot.
  void Write(const Slot& slot, uint64_t offset, std::span<const std::byte> from, Done done);
  void Read(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done);
  virtual TierUsage Usage() const = 0;

  // An extent, as large as what it is reserved as or can be reserved as.
  struct Extent {
    uint64_t offset = 0;
    uint64_t bytes = 0;
  };
  // What is free now, ascending, no two touching.
  virtual std::vector<Extent> Holes() const = 0;

 protected:
  explicit Tier(uint64_t capacity_bytes) : Tier(capacity_bytes, capacity_bytes) {}
  // max_capacity_bytes: up to which the capacity may be set, and all slots lie.
  Tier(uint64_t capacity_bytes, uint64_t max_capacity_bytes)
      : max_capacity_bytes_(max_capacity_bytes), capacity_bytes_(capacity_bytes) {}
  void set_capacity_bytes(uint64_t bytes) { capacity_bytes_.store(bytes); }
  const uint64_t max_capacity_bytes_;

 private:
  bool Contains(const Slot& slot) const;
  absl::Status CheckAccess(const Slot& slot, uint64_t offset, uint64_t bytes) const;

  virtual absl::StatusOr<Slot> DoReserve(uint64_t bytes) = 0;
  virtual void DoFree(const Slot& slot) = 0;
  virtual std::span<std::byte> DoMap(const Slot& slot) = 0;
  virtual void DoWrite(const Slot& slot, uint64_t offset, std::span<const std::byte> from,
                       Done done) = 0;
  virtual void DoRead(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done) = 0;

  std::atomic<uint64_t> capacity_bytes_;
};

}  // namespace varve::tier
