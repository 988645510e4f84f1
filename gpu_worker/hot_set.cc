#include "gpu_worker/hot_set.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <iterator>
#include <limits>
#include <unordered_set>

#include "absl/strings/str_cat.h"

namespace varve::worker {
namespace {

// Below every score and every Touch rank, younger pages higher: what was never asked for leaves
// first, oldest first.
float UnscoredRank(uint32_t page) {
  return 50 * HotSet::kNeverScored + 1e24f * static_cast<float>(page);
}

// Of what was never scored, or was lost, there is nothing to keep. Without branches, for all pages
// of a layer at once.
float Smoothed(float rank, float score, float kept) {
  const float smoothed = kept * rank + (1 - kept) * score;
  const bool keep = (kept > 0) & (std::fabs(score) <= std::numeric_limits<float>::max()) &
                    (rank > HotSet::kNeverScored);
  return keep ? smoothed : score;
}

}  // namespace

std::span<const uint32_t> HotSet::PagesBelow(uint32_t end) const {
  const auto last = std::lower_bound(resident_.begin(), resident_.end(), end);
  return {resident_.data(), static_cast<size_t>(last - resident_.begin())};
}

void HotSet::GrowTo(uint32_t pages) {
  while (slot_of_.size() < pages) {
    rank_.push_back(UnscoredRank(static_cast<uint32_t>(slot_of_.size())));
    slot_of_.push_back(kNoSlot);
  }
}

void HotSet::Insert(uint32_t page, Slot slot) {
  GrowTo(page + 1);
  assert(slot_of_[page] == kNoSlot);
  ++changes_;
  slot_of_[page] = slot;
  if (resident_.empty() || resident_.back() < page) {
    resident_.push_back(page);
  } else {
    resident_.insert(std::lower_bound(resident_.begin(), resident_.end(), page), page);
  }
}

void HotSet::InsertAhead(uint32_t page, Slot slot) {
  Insert(page, slot);
  ahead_.insert(std::lower_bound(ahead_.begin(), ahead_.end(), page), page);
}

uint32_t HotSet::TakeUsed(std::span<const uint32_t> selected) {
  return static_cast<uint32_t>(std::erase_if(ahead_, [selected](uint32_t page) {
    return std::binary_search(selected.begin(), selected.end(), page);
  }));
}

Slot HotSet::Remove(uint32_t page) {
  assert(resident(page));
  ++changes_;
  const auto ahead = std::lower_bound(ahead_.begin(), ahead_.end(), page);
  if (ahead != ahead_.end() && *ahead == page) {
    ahead_.erase(ahead);
    ++wasted_;
  }
  const Slot slot = slot_of_[page];
  slot_of_[page] = kNoSlot;
  rank_[page] = UnscoredRank(page);
  resident_.erase(std::lower_bound(resident_.begin(), resident_.end(), page));
  return slot;
}

uint32_t HotSet::CountMissing(std::span<const uint32_t> selected) const {
  return static_cast<uint32_t>(std::count_if(selected.begin(), selected.end(),
                                             [this](uint32_t page) { return !resident(page); }));
}

void HotSet::NoteScores(std::span<const float> scores, double smoothing) {
  GrowTo(static_cast<uint32_t>(scores.size()));
  const auto kept = static_cast<float>(smoothing);
  for (size_t page = 0; page < scores.size(); ++page) {
    rank_[page] = Smoothed(rank_[page], scores[page], kept);
  }
}

void HotSet::NoteScore(uint32_t page, float score, double smoothing) {
  GrowTo(page + 1);
  rank_[page] = Smoothed(rank_[page], score, static_cast<float>(smoothing));
}

void HotSet::Touch(std::span<const uint32_t> selected, float rank) {
  for (uint32_t page : selected) {
    GrowTo(page + 1);
    rank_[page] = rank;
  }
}

void HotSet::CollectLocked(std::span<const uint32_t> resident, std::span<const BlockState> states) {
  locked_.clear();
  for (uint32_t page : resident) {
    if (states[page] != BlockState::kSaved) locked_.push_back(page);
  }
}

void HotSet::GatherScores(std::span<const uint32_t> resident) {
  scores_.clear();
  for (uint32_t page : resident) scores_.push_back(rank_[page]);
}

bool HotSet::Plan(std::span<const uint32_t> selected, std::span<const BlockState> states,
                  uint32_t spare_slots, page::HotSetPlan& plan) {
  const auto resident = PagesBelow(static_cast<uint32_t>(states.size()));
  CollectLocked(resident, states);
  GatherScores(resident);
  const uint32_t capacity = static_cast<uint32_t>(resident.size()) + spare_slots;
  return page::PlanHotSet(selected, resident, locked_, scores_, capacity, plan);
}

void HotSet::Surplus(std::span<const uint32_t> keep, std::span<const BlockState> states,
                     uint32_t target, std::vector<uint32_t>& victims) {
  victims.clear();
  const auto resident = PagesBelow(static_cast<uint32_t>(states.size()));
  if (resident.size() <= target) return;
  for (uint32_t page : resident) {
    if (states[page] == BlockState::kSaved && !std::binary_search(keep.begin(), keep.end(), page)) {
      victims.push_back(page);
    }
  }
  const size_t count = std::min(victims.size(), resident.size() - target);
  std::partial_sort(victims.begin(), victims.begin() + static_cast<std::ptrdiff_t>(count),
                    victims.end(), [this](uint32_t a, uint32_t b) {
                      if (rank_[a] != rank_[b]) return rank_[a] < rank_[b];
                      return a > b;
                    });
  victims.resize(count);
}

absl::Status HotSet::CheckInvariants() const {
  std::unordered_set<Slot> slots;
  size_t mapped = 0;
  for (uint32_t page = 0; page < slot_of_.size(); ++page) {
    if (slot_of_[page] == kNoSlot) continue;
    ++mapped;
    if (!slots.insert(slot_of_[page]).second) {
      return absl::InternalError(
          absl::StrCat("slot ", slot_of_[page], " holds two pages, one is ", page));
    }
    if (!std::binary_search(resident_.begin(), resident_.end(), page)) {
      return absl::InternalError(absl::StrCat("page ", page, " has a slot but is not listed"));
    }
  }
  if (mapped != resident_.size()) {
    return absl::InternalError(
        absl::StrCat(resident_.size(), " pages listed, ", mapped, " have slots"));
  }
  return absl::OkStatus();
}

}  // namespace varve::worker
