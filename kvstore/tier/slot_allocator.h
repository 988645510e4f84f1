// Which extents of [0, capacity) are reserved: best fit, coalescing, O(log n). A pure state machine
// over numbers: it touches no memory and no device, so one implementation serves every tier and is
// tested without any.
//
// Slots of one (rounded) size never fragment: every hole is a multiple of that size. Mixed sizes
// coalesce with both neighbours on Free; best fit with ties to the lowest offset keeps large holes
// whole. Not thread-safe; the tier that owns it locks.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <variant>

#include "absl/container/flat_hash_map.h"
#include "kvstore/tier/tier.h"

namespace varve::tier {

class SlotAllocator {
 public:
  // What a reservation lacks.
  struct Lack {
    uint64_t wanted_bytes = 0;  // rounded up to the alignment
    uint64_t free_bytes = 0;
    uint64_t largest_free_bytes = 0;
  };

  // alignment_bytes: a power of two; sizes and offsets are multiples of it. The capacity is rounded
  // down to it.
  explicit SlotAllocator(uint64_t capacity_bytes, uint64_t alignment_bytes = 4096);

  // bytes > 0. Each reservation has a generation that no earlier one had.
  std::variant<Slot, Lack> Reserve(uint64_t bytes);
  // False, with nothing changed, when the slot is not reserved now: freed already, or not from
  // here.
  bool Free(const Slot& slot);

  // Slots that reach beyond a lower capacity stay until they are freed; no hole does. O(slots).
  void Resize(uint64_t capacity_bytes);

  uint64_t capacity_bytes() const { return capacity_bytes_; }
  uint64_t used_bytes() const { return used_bytes_; }
  uint64_t free_bytes() const { return free_bytes_; }
  uint64_t beyond_bytes() const { return beyond_bytes_; }
  uint64_t largest_free_bytes() const;
  uint64_t slots() const { return reserved_.size(); }
  // offset -> bytes; no two touch.
  const std::map<uint64_t, uint64_t>& holes() const { return free_by_offset_; }

 private:
  uint64_t RoundUp(uint64_t bytes) const;
  void AddHole(uint64_t offset, uint64_t bytes);
  void RemoveHole(uint64_t offset, uint64_t bytes);
  // A hole that may touch others, and reach beyond the capacity.
  void Release(uint64_t begin, uint64_t end);
  bool Beyond(const Slot& slot) const { return slot.offset + slot.extent_bytes > capacity_bytes_; }

  const uint64_t alignment_bytes_;
  uint64_t capacity_bytes_;
  uint64_t used_bytes_ = 0;    // by all slots
  uint64_t free_bytes_ = 0;    // in holes
  uint64_t beyond_bytes_ = 0;  // of slots that reach beyond the capacity
  uint64_t next_generation_ = 1;
  // The holes, twice: touching holes never exist side by side.
  std::map<uint64_t, uint64_t> free_by_offset_;           // offset -> bytes
  std::set<std::pair<uint64_t, uint64_t>> free_by_size_;  // (bytes, offset)
  absl::flat_hash_map<uint64_t, Slot> reserved_;          // by offset
};

}  // namespace varve::tier
