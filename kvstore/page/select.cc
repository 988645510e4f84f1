#include "kvstore/page/select.h"

#include <algorithm>
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

}  // namespace

uint32_t SelectPages(std::span<const float> scores, std::span<const uint32_t> pinned,
                     uint32_t budget, SelectScratch& scratch, std::span<uint32_t> out) {
  const auto num_pages = static_cast<uint32_t>(scores.size());
  const auto num_pinned = static_cast<uint32_t>(pinned.size());
  const uint32_t others = num_pages - num_pinned;
  const uint32_t wanted = budget > num_pinned ? std::min(budget - num_pinned, others) : 0;

  std::copy(pinned.begin(), pinned.end(), out.begin());
  if (wanted > 0) {
    scratch.ids.clear();
    scratch.ids.reserve(num_pages);
    auto next_pinned = pinned.begin();
    for (uint32_t id = 0; id < num_pages; ++id) {
      if (next_pinned != pinned.end() && *next_pinned == id) {
        ++next_pinned;
      } else {
        scratch.ids.push_back(id);
      }
    }
    const auto better = [scores](uint32_t a, uint32_t b) {
      if (Higher(scores[a], scores[b])) return true;
      if (Higher(scores[b], scores[a])) return false;
      return a < b;
    };
    if (wanted < others) {
      std::nth_element(scratch.ids.begin(), scratch.ids.begin() + wanted, scratch.ids.end(),
                       better);
    }
    std::copy_n(scratch.ids.begin(), wanted, out.begin() + num_pinned);
  }
  const uint32_t count = num_pinned + wanted;
  std::sort(out.begin(), out.begin() + count);
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
