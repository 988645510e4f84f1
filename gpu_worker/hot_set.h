// Which pages of one (sequence, layer, KV head) are resident, and in which slots: a bijection, for
// window and generated pages too.
//
// A selection over the candidate pages becomes a plan (page::PlanHotSet): hits stay, misses need
// slots, first new ones, then those of victims. Victims are saved, not selected, and have the
// lowest rank: the smoothed score of the steps so far, or the step of the last use. The owner moves
// slots; this class never touches the pool, so it can be tested as a pure state machine. Not
// thread-safe. After warm-up nothing here allocates.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/page_pool.h"
#include "kvstore/page/select.h"

namespace varve::worker {

// Of a block in one layer. Only saved pages may leave the worker's memory.
enum class BlockState : uint8_t {
  kSealed,   // full and immutable, not yet on its way
  kSaving,   // the store is reading it
  kSaved,    // the store has acknowledged it
  kUnsaved,  // the store did not take it: stays resident, is submitted again later
  kLost,     // some heads' pages exist nowhere any more: the others stay resident
};

class HotSet {
 public:
  // The rank above all pages that nothing ever asked for, and below all scores.
  static constexpr float kNeverScored = -1e29f;

  bool resident(uint32_t page) const { return page < slot_of_.size() && slot_of_[page] != kNoSlot; }
  // kNoSlot when not resident.
  Slot slot(uint32_t page) const { return page < slot_of_.size() ? slot_of_[page] : kNoSlot; }
  // Ascending pages.
  std::span<const uint32_t> pages() const { return resident_; }
  // Resident pages below `end`, ascending.
  std::span<const uint32_t> PagesBelow(uint32_t end) const;

  // The page becomes resident in the slot; it was not.
  void Insert(uint32_t page, Slot slot);
  // The same for a page that came before anything asked for it.
  void InsertAhead(uint32_t page, Slot slot);
  // The page leaves; answers its slot, now the caller's.
  Slot Remove(uint32_t page);
  // How many of the selected pages came ahead; each counts once.
  uint32_t TakeUsed(std::span<const uint32_t> selected);
  // Pages that came ahead and have left unused, since the last call.
  uint32_t TakeWasted() { return std::exchange(wasted_, 0); }

  // Grows with each page that comes or leaves.
  uint64_t changes() const { return changes_; }

  uint32_t CountMissing(std::span<const uint32_t> selected) const;

  // This step's scores of the pages [0, scores.size()). A page's rank among victims is
  // smoothing x its rank + (1 - smoothing) x its score; its first score since
  // it was last resident is its first rank.
  void NoteScores(std::span<const float> scores, double smoothing);
  // The same of one page.
  void NoteScore(uint32_t page, float score, double smoothing);
  // Instead of scores: pages that were just used rank above all others.
  void Touch(std::span<const uint32_t> selected, float rank);

  // Plans for the candidates [0, states.size()), with so many slots to spare. False when too few
  // residents may leave.
  bool Plan(std::span<const uint32_t> selected, std::span<const BlockState> states,
            uint32_t spare_slots, page::HotSetPlan& plan);
  // The lowest-scored residents among the candidates that are saved and not in `keep` (ascending),
  // until at most `target` candidates are resident; fewer when too few may leave.
  void Surplus(std::span<const uint32_t> keep, std::span<const BlockState> states, uint32_t target,
               std::vector<uint32_t>& victims);

  // INTERNAL naming the defect when the maps disagree.
  absl::Status CheckInvariants() const;

 private:
  void CollectLocked(std::span<const uint32_t> resident, std::span<const BlockState> states);
  void GatherScores(std::span<const uint32_t> resident);
  void GrowTo(uint32_t pages);

  std::vector<Slot> slot_of_;       // by page
  std::vector<float> rank_;         // by page; a page that was never scored ranks by its age
  std::vector<uint32_t> resident_;  // ascending
  std::vector<uint32_t> ahead_;     // residents that came ahead and were not used yet, ascending
  uint32_t wasted_ = 0;
  uint64_t changes_ = 0;
  std::vector<uint32_t> locked_;  // scratch of Plan
  std::vector<float> scores_;     // scratch of Plan, parallel to the residents
};

}  // namespace varve::worker
