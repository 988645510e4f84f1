// The slots of one memory tier: SlotAllocator under a lock, with what Tier promises of sizes and of
// wrong frees.
//
// Threads: every method from any thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/slot_allocator.h"
#include "kvstore/tier/tier.h"

namespace varve::tier {

class SlotTable {
 public:
  // INVALID_ARGUMENT, naming the option, for what the constructor does not take: an alignment that
  // is not a power of two of at least 64, or a capacity that has no room for one slot.
  static absl::Status CheckSizes(uint64_t capacity_bytes, uint64_t slot_alignment_bytes);

  // tier_name: for messages.
  SlotTable(std::string tier_name, uint64_t capacity_bytes, uint64_t slot_alignment_bytes)
      : tier_name_(std::move(tier_name)), allocator_(capacity_bytes, slot_alignment_bytes) {}

  // bytes > 0; RESOURCE_EXHAUSTED when no hole is big enough.
  absl::StatusOr<Slot> Reserve(uint64_t bytes);
  // What is not reserved is counted and logged.
  void Free(const Slot& slot);
  void Resize(uint64_t capacity_bytes);
  TierUsage Usage() const;
  std::vector<Tier::Extent> Holes() const;

 private:
  const std::string tier_name_;
  mutable base::Mutex mutex_;
  SlotAllocator allocator_ ABSL_GUARDED_BY(mutex_);
  uint64_t rejected_frees_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace varve::tier
