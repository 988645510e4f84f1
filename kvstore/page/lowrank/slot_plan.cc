#include "kvstore/page/lowrank/slot_plan.h"

#include <algorithm>
#include <functional>

namespace varve::page {
namespace {

bool StrictlyAscending(std::span<const uint32_t> ids) {
  return std::adjacent_find(ids.begin(), ids.end(), std::greater_equal<>()) == ids.end();
}

}  // namespace

bool PlanSlots(std::span<const uint32_t> previous, std::span<const uint32_t> selected,
               SlotPlan& plan) {
  plan.ids.clear();
  plan.from.clear();
  if (!StrictlyAscending(selected)) return false;
  if (!selected.empty() && selected.back() == kNoChunk) return false;
  std::vector<bool> hit(selected.size());
  for (uint32_t slot = 0; slot < previous.size(); ++slot) {
    const auto at = std::lower_bound(selected.begin(), selected.end(), previous[slot]);
    if (at == selected.end() || *at != previous[slot]) continue;
    const auto index = static_cast<size_t>(at - selected.begin());
    if (hit[index]) {
      plan.ids.clear();
      plan.from.clear();
      return false;
    }
    hit[index] = true;
    plan.ids.push_back(previous[slot]);
    plan.from.push_back(slot);
  }
  for (size_t i = 0; i < selected.size(); ++i) {
    if (!hit[i]) plan.ids.push_back(selected[i]);
  }
  return true;
}

}  // namespace varve::page
