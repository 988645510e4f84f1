#include "kvstore/tier/slot_allocator.h"

#include <algorithm>
#include <iterator>
#include <vector>

namespace varve::tier {

SlotAllocator::SlotAllocator(uint64_t capacity_bytes, uint64_t alignment_bytes)
    : alignment_bytes_(alignment_bytes), capacity_bytes_(capacity_bytes & ~(alignment_bytes - 1)) {
  if (capacity_bytes_ > 0) AddHole(0, capacity_bytes_);
}

uint64_t SlotAllocator::RoundUp(uint64_t bytes) const {
  // A size so large that rounding would overflow fits no hole either way.
  const uint64_t rounded = (bytes + alignment_bytes_ - 1) & ~(alignment_bytes_ - 1);
  return rounded < bytes ? bytes : rounded;
}

void SlotAllocator::AddHole(uint64_t offset, uint64_t bytes) {
  free_by_offset_.emplace(offset, bytes);
  free_by_size_.emplace(bytes, offset);
  free_bytes_ += bytes;
}

void SlotAllocator::RemoveHole(uint64_t offset, uint64_t bytes) {
  free_by_offset_.erase(offset);
  free_by_size_.erase({bytes, offset});
  free_bytes_ -= bytes;
}

std::variant<Slot, SlotAllocator::Lack> SlotAllocator::Reserve(uint64_t bytes) {
  const uint64_t rounded = RoundUp(bytes);
  const auto best = free_by_size_.lower_bound({rounded, 0});
  if (best == free_by_size_.end()) {
    return Lack{rounded, free_bytes_, largest_free_bytes()};
  }
  const auto [hole_bytes, offset] = *best;
  RemoveHole(offset, hole_bytes);
  if (hole_bytes > rounded) AddHole(offset + rounded, hole_bytes - rounded);
  used_bytes_ += rounded;
  const Slot slot{offset, bytes, next_generation_++, rounded};
  reserved_.emplace(offset, slot);
  return slot;
}

bool SlotAllocator::Free(const Slot& slot) {
  const auto found = reserved_.find(slot.offset);
  if (found == reserved_.end() || found->second.generation != slot.generation ||
      found->second.bytes != slot.bytes) {
    return false;
  }
  const uint64_t bytes = found->second.extent_bytes;
  if (Beyond(found->second)) beyond_bytes_ -= bytes;
  used_bytes_ -= bytes;
  reserved_.erase(found);
  Release(slot.offset, slot.offset + bytes);
  return true;
}

void SlotAllocator::Release(uint64_t begin, uint64_t end) {
  end = std::min(end, capacity_bytes_);
  if (begin >= end) return;
  const auto after = free_by_offset_.lower_bound(begin);
  const bool joins_after = after != free_by_offset_.end() && after->first == end;
  const uint64_t after_bytes = joins_after ? after->second : 0;
  if (after != free_by_offset_.begin()) {
    const auto [before_offset, before_bytes] = *std::prev(after);
    if (before_offset + before_bytes == begin) {
      RemoveHole(before_offset, before_bytes);
      begin = before_offset;
    }
  }
  if (joins_after) {
    RemoveHole(end, after_bytes);
    end += after_bytes;
  }
  AddHole(begin, end - begin);
}

void SlotAllocator::Resize(uint64_t capacity_bytes) {
  const uint64_t before = capacity_bytes_;
  capacity_bytes_ = capacity_bytes & ~(alignment_bytes_ - 1);
  while (!free_by_offset_.empty()) {
    const auto [offset, bytes] = *free_by_offset_.rbegin();
    if (offset + bytes <= capacity_bytes_) break;
    RemoveHole(offset, bytes);
    Release(offset, offset + bytes);
  }
  std::vector<std::pair<uint64_t, uint64_t>> taken;  // that end beyond the capacity before
  beyond_bytes_ = 0;
  for (const auto& [offset, slot] : reserved_) {
    if (Beyond(slot)) beyond_bytes_ += slot.extent_bytes;
    if (offset + slot.extent_bytes > before) taken.emplace_back(offset, slot.extent_bytes);
  }
  std::sort(taken.begin(), taken.end());
  uint64_t at = before;
  for (const auto& [offset, bytes] : taken) {
    Release(at, offset);
    at = std::max(at, offset + bytes);
  }
  Release(at, capacity_bytes_);
}

uint64_t SlotAllocator::largest_free_bytes() const {
  return free_by_size_.empty() ? 0 : free_by_size_.rbegin()->first;
}

}  // namespace varve::tier
