#include "kvstore/tier/slot_table.h"

#include <bit>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"

namespace varve::tier {

absl::Status SlotTable::CheckSizes(uint64_t capacity_bytes, uint64_t slot_alignment_bytes) {
  if (!std::has_single_bit(slot_alignment_bytes) || slot_alignment_bytes < 64) {
    return absl::InvalidArgumentError(absl::StrCat("slot_alignment_bytes is ", slot_alignment_bytes,
                                                   ", allowed: a power of two of at least 64"));
  }
  if (capacity_bytes < slot_alignment_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("capacity_bytes is ", capacity_bytes,
                                                   ", allowed: at least ", slot_alignment_bytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<Slot> SlotTable::Reserve(uint64_t bytes) {
  std::variant<Slot, SlotAllocator::Lack> result;
  uint64_t capacity_bytes = 0;
  {
    base::MutexLock lock(mutex_);
    result = allocator_.Reserve(bytes);
    capacity_bytes = allocator_.capacity_bytes();
  }
  if (const Slot* slot = std::get_if<Slot>(&result)) return *slot;
  const auto& lack = std::get<SlotAllocator::Lack>(result);
  return absl::ResourceExhaustedError(absl::StrCat(
      tier_name_, " tier has no hole of ", lack.wanted_bytes, " bytes: ", lack.free_bytes, " of ",
      capacity_bytes, " bytes are free, the largest hole has ", lack.largest_free_bytes));
}

void SlotTable::Free(const Slot& slot) {
  {
    base::MutexLock lock(mutex_);
    if (allocator_.Free(slot)) return;
    ++rejected_frees_;
  }
  base::LogError(tier_name_, " tier: ignored the free of a slot that is not reserved: ", slot.bytes,
                 " bytes at ", slot.offset, ", generation ", slot.generation);
}

void SlotTable::Resize(uint64_t capacity_bytes) {
  base::MutexLock lock(mutex_);
  allocator_.Resize(capacity_bytes);
}

TierUsage SlotTable::Usage() const {
  base::MutexLock lock(mutex_);
  return TierUsage{.capacity_bytes = allocator_.capacity_bytes(),
                   .used_bytes = allocator_.used_bytes(),
                   .free_bytes = allocator_.free_bytes(),
                   .largest_free_bytes = allocator_.largest_free_bytes(),
                   .slots = allocator_.slots(),
                   .beyond_bytes = allocator_.beyond_bytes(),
                   .rejected_frees = rejected_frees_};
}

std::vector<Tier::Extent> SlotTable::Holes() const {
  base::MutexLock lock(mutex_);
  std::vector<Tier::Extent> holes;
  holes.reserve(allocator_.holes().size());
  for (const auto& [offset, bytes] : allocator_.holes()) holes.push_back({offset, bytes});
  return holes;
}

}  // namespace varve::tier
