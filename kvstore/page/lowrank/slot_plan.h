// From one step's selection of a KV head to the next, in slots that hold exactly what is selected
// (ShadowKV): what is there already moves to the front, what is missing is fetched behind it.
//
// Hits keep the order of their old slots, so slot i of the new order comes from an old slot from[i]
// >= i, from is ascending, and one pass in ascending order compacts the slots in place without
// overwriting what it still needs. Thread-safe; no exceptions but those of the allocator.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace varve::page {

// A slot that holds nothing.
inline constexpr uint32_t kNoChunk = 0xffffffffu;

struct SlotPlan {
  std::vector<uint32_t> ids;   // chunk of each slot from now on: hits, then misses ascending
  std::vector<uint32_t> from;  // old slot of each hit, ascending; slots from.size() on are misses
  bool operator==(const SlotPlan&) const = default;
};

// previous: chunk of each slot, any order, kNoChunk where there is none. selected: ascending.
// False, with an empty plan, when selected is not strictly ascending, has kNoChunk, or a selected
// chunk is in two slots.
bool PlanSlots(std::span<const uint32_t> previous, std::span<const uint32_t> selected,
               SlotPlan& plan);

}  // namespace varve::page
