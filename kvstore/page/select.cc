#include "kvstore/page/select.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>

namespace varve::page {
namespace {

// NaN ranks below -inf, so that a broken score can never displace a sound one.
bool Higher(float a, float b) {
  if (std::isnan(a)) return false;
  return std::isnan(b) || a > b;
}

// Orders like Higher, both zeros alike. Below kPinned.
uint32_t OrderedKey(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);
  const uint32_t key = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return std::isnan(score) ? 0 : key;
}

constexpr uint32_t kPinned = 0xffffffffu;
constexpr uint32_t kDigitBits = 8;
constexpr uint32_t kDigits = 1u << kDigitBits;

// The wanted-th greatest key of those that are not pinned, digit by digit: no comparison whose
// outcome a processor would have to guess. `wanted`, 1 or more of as many keys, becomes how many of
// the keys that equal it are wanted.
uint32_t Threshold(std::span<const uint32_t> keys, std::span<const uint32_t> pinned,
                   uint32_t& wanted) {
  uint32_t prefix = 0, mask = 0;
  for (uint32_t shift = 32; shift > 0;) {
    shift -= kDigitBits;
    std::array<uint32_t, kDigits> count{};
    const auto add = [&](uint32_t key, uint32_t step) {
      count[(key >> shift) % kDigits] += (key & mask) == prefix ? step : 0;
    };
    for (const uint32_t key : keys) add(key, 1);
    for (const uint32_t page : pinned) add(keys[page], -1u);
    uint32_t digit = kDigits - 1;
    for (; count[digit] < wanted; --digit) wanted -= count[digit];
    prefix |= digit << shift;
    mask |= (kDigits - 1) << shift;
  }
  return prefix;
}

}  // namespace

uint32_t SelectPages(std::span<const float> scores, std::span<const uint32_t> pinned,
                     uint32_t budget, SelectScratch& scratch, std::span<uint32_t> out) {
  const auto num_pages = static_cast<uint32_t>(scores.size());
  const auto num_pinned = static_cast<uint32_t>(pinned.size());
  const uint32_t others = num_pages - num_pinned;
  uint32_t wanted = budget > num_pinned ? std::min(budget - num_pinned, others) : 0;
  if (wanted == 0) {
    std::copy(pinned.begin(), pinned.end(), out.begin());
    return num_pinned;
  }
  const uint32_t count = num_pinned + wanted;
  scratch.keys.resize(num_pages);
  std::transform(scores.begin(), scores.end(), scratch.keys.begin(), OrderedKey);
  const uint32_t threshold = Threshold(scratch.keys, pinned, wanted);
  for (const uint32_t page : pinned) scratch.keys[page] = kPinned;
  uint32_t selected = 0;
  for (uint32_t id = 0; id < num_pages; ++id) {
    const uint32_t key = scratch.keys[id];
    if (key < threshold || (key == threshold && wanted == 0)) continue;
    wanted -= key == threshold ? 1 : 0;
    out[selected++] = id;
  }
  return count;
}

void FavourResidents(std::span<const uint32_t> resident, double hysteresis,
                     std::span<float> scores) {
  for (const uint32_t page : resident) {
    if (page < scores.size()) scores[page] *= static_cast<float>(1 + hysteresis);
  }
}

void PinnedPages(uint32_t num_pages, uint32_t sinks, uint32_t window, std::vector<uint32_t>& out) {
  out.clear();
  const uint32_t first = std::min(sinks, num_pages);
  const uint32_t last_begin = std::max(first, num_pages - std::min(window, num_pages));
  for (uint32_t id = 0; id < first; ++id) out.push_back(id);
  for (uint32_t id = last_begin; id < num_pages; ++id) out.push_back(id);
}

uint32_t BudgetPages(double fraction, uint32_t min_pages, uint32_t num_pages) {
  const double wanted = std::ceil(fraction * num_pages);
  if (wanted >= num_pages) return num_pages;
  // A NaN or negative fraction asks for nothing.
  const uint32_t pages = wanted > 0 ? static_cast<uint32_t>(wanted) : 0;
  return std::min(num_pages, std::max(min_pages, pages));
}

namespace {

// Resident pages that may leave, best victim first: the lowest score, ties to the higher page id.
void OrderVictims(std::span<const uint32_t> candidates, std::span<const float> scores,
                  size_t needed, std::vector<uint32_t>& indexes) {
  const auto worse = [&](uint32_t a, uint32_t b) {
    if (Higher(scores[b], scores[a])) return true;
    if (Higher(scores[a], scores[b])) return false;
    return candidates[a] > candidates[b];
  };
  std::partial_sort(indexes.begin(), indexes.begin() + static_cast<std::ptrdiff_t>(needed),
                    indexes.end(), worse);
}

}  // namespace

bool PlanHotSet(std::span<const uint32_t> selected, std::span<const uint32_t> resident,
                std::span<const uint32_t> locked, std::span<const float> victim_scores,
                uint32_t capacity, HotSetPlan& plan) {
  plan.hits.clear();
  plan.recall.clear();
  plan.victims.clear();
  if (selected.size() > capacity || resident.size() > capacity) return false;
  std::set_intersection(selected.begin(), selected.end(), resident.begin(), resident.end(),
                        std::back_inserter(plan.hits));
  std::set_difference(selected.begin(), selected.end(), resident.begin(), resident.end(),
                      std::back_inserter(plan.recall));
  const size_t free_slots = capacity - resident.size();
  if (plan.recall.size() <= free_slots) return true;
  const size_t needed = plan.recall.size() - free_slots;

  std::vector<uint32_t>& indexes = plan.victims;  // positions in resident until the end
  for (uint32_t i = 0; i < resident.size(); ++i) {
    if (!std::binary_search(selected.begin(), selected.end(), resident[i]) &&
        !std::binary_search(locked.begin(), locked.end(), resident[i])) {
      indexes.push_back(i);
    }
  }
  if (indexes.size() < needed) {
    plan.victims.clear();
    return false;
  }
  OrderVictims(resident, victim_scores, needed, indexes);
  indexes.resize(needed);
  for (uint32_t& entry : indexes) entry = resident[entry];
  return true;
}

}  // namespace varve::page
