// Selection of pages by score, and the plan that turns a selection into hot-set changes.
//
// Deterministic: higher score first, ties to the lower page id, pinned pages always in. Scores may
// be any float; NaN ranks below everything. Standard library only, thread-safe, no exceptions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace varve::page {

// Writes the ids of the selected pages, ascending, into out and returns how many: all pinned pages
// plus the best of the others until budget (pinned count towards it). pinned is ascending without
// duplicates, each < num_pages. out has room for max(budget, pinned.size()) entries, or num_pages
// if that is less. scratch may be reused between calls and grows once.
struct SelectScratch {
  std::vector<uint32_t> keys;
};
uint32_t SelectPages(std::span<const float> scores, std::span<const uint32_t> pinned,
                     uint32_t budget, SelectScratch& scratch, std::span<uint32_t> out);

inline constexpr double kMaxHysteresis = 100;
// Pages that are there already give way to clearly better ones only: the scores of the resident
// pages, shares of the attention mass, count 1 + hysteresis times. Residents without a score are
// passed over.
void FavourResidents(std::span<const uint32_t> resident, double hysteresis,
                     std::span<float> scores);

// Pages pinned by position: the first `sinks` and the last `window` of num_pages, ascending,
// without duplicates.
void PinnedPages(uint32_t num_pages, uint32_t sinks, uint32_t window, std::vector<uint32_t>& out);

// budget_pages = min(num_pages, max(min_pages, ceil(fraction * num_pages))).
uint32_t BudgetPages(double fraction, uint32_t min_pages, uint32_t num_pages);

// What a selection means for a hot set of `capacity` slots (specs/recall.md 6.3): |recall| slots
// are taken from free slots first, then from victims. Victims are resident, not selected, not
// locked, lowest score first (ties: higher page id first). Needs capacity >= |selected|.
struct HotSetPlan {
  std::vector<uint32_t> hits;     // selected and resident, ascending
  std::vector<uint32_t> recall;   // selected and not resident, ascending
  std::vector<uint32_t> victims;  // resident pages to give up, in order of choice
};
// resident: ascending; locked: ascending subset of resident that may not be a victim (not yet
// saved, or pinned); victim_scores[i] belongs to resident[i] (last known score). False when
// unlocked victims do not suffice.
bool PlanHotSet(std::span<const uint32_t> selected, std::span<const uint32_t> resident,
                std::span<const uint32_t> locked, std::span<const float> victim_scores,
                uint32_t capacity, HotSetPlan& plan);

}  // namespace varve::page
