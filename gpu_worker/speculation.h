// Speculation of one sequence: a step attends to what the step before selected, as far as its
// queries have not turned, and the pages for it come while that step computes (FreeKV).
//
// After a step's Attend in a layer, the pages of the next step are selected with this step's
// queries and asked for in the prefetch class, several layers in one request. At the next Attend of
// the layer each KV head compares its queries: when the mean cosine over the group's query heads is
// at least tau, it keeps that selection; else it is corrected: selected with the present queries
// and fetched on demand. With tau 1 every head is always corrected, so outputs are those of a
// sequence without speculation, bit for bit. A prefetch that failed or is late corrects its heads
// as well; a page of a kept selection that did not come is fetched on demand.
//
// A sequence that resumes a context asks for the pages that were hot when the context was parked,
// by whatever worker: those that the last step attended to, then the others, as far as its own hot
// sets go. It asks when it is opened: the pages travel while the engine computes the new turn's
// tokens, and wait in slots of their own, where no prefill evicts them, until the first Attend of
// their layer. After FinishPrefill would be too late, as the first Attend follows at once. That
// step selects with its own queries, so no output depends on what came. What does not come is
// fetched on demand; the first layer to wait in vain gives up for all.
//
// Bounds: at most Policy::ahead x budget pages per (layer, KV head) are on their way; their slots
// are spare ones of the pool, then those of pages that no present selection has. Of a resumed
// context at most the hot capacity, and half of the spare slots only, which go back when the
// prefill needs them.
//
// With Policy::hysteresis what a step selects depends on what is resident, so on what came ahead in
// time; all that is said here of outputs is without it.
//
// Threads: those of its sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "gpu_worker/prefetch.h"
#include "gpu_worker/selector.h"
#include "gpu_worker/sequence.h"

namespace varve::worker {

// Mean cosine of the group's queries with those of the step before, in [-1, 1].
// a, b: [group][head_dim]. A zero query is like another zero query only.
double MeanCosine(const float* a, const float* b, uint32_t group, uint32_t head_dim);

// A tau that no cosine reaches.
inline constexpr double kNeverKeep = 2;

class Speculation {
 public:
  // tau above 1: no head is ever kept or counted, and nothing is asked for ahead but by Warm.
  Speculation(const Services* services, Sequence* sequence, double tau);
  ~Speculation() { Abandon(); }

  // Before the pages of a layer are chosen: sets kept and selected() of the heads that keep their
  // selection, and makes resident what came for the layer. Waits for it when a head needs it. A
  // step that is tried again may call it again.
  void Resolve(std::span<HeadWork> works);
  // After they have attended: selects for the next step, by `score` (sets selected() of the kept
  // heads) where this worker does, and has what is missing asked for (TakeRequests) when the layers
  // that share a request have all attended.
  using Score = absl::FunctionRef<void(std::span<HeadWork>)>;
  void LookAhead(std::span<HeadWork> works, Score score);
  // The works have queries of the prompt's last token: selects for the first step, and has all of
  // it asked for, as the hot sets are cold.
  void Warm(std::span<HeadWork> works, Score score);
  // Moves what is to be asked for to the end of `requests`, for the caller to start.
  void TakeRequests(std::vector<std::shared_ptr<Prefetch>>& requests);

  // The sequence continues a stored context, of which these pages were hot. Once, before its first
  // Attend or Warm.
  void Resume(std::span<const client::HotPages> hot);

  // Waits for what is under way and gives its slots back; false when there was nothing.
  bool GiveBack(absl::Duration patience);
  // Gives up what is under way, without waiting.
  void Abandon();

 private:
  enum class Outcome : uint8_t { kFirst, kKept, kTurned, kLate };
  struct Layer {
    std::vector<float> queries;  // that the next selection is made with; empty: none
    uint32_t candidates = 0;
    std::vector<std::vector<uint32_t>> chosen;  // by KV head
    std::vector<bool> known;                    // by KV head: chosen is set
    std::vector<Outcome> outcomes;              // by KV head, of the last Resolve
    bool noted = false;                         // and not asked for yet
    bool warming = false;                       // for the first step
    bool resuming = false;                      // prefetch has what was hot, not a selection
    std::shared_ptr<Prefetch> prefetch;         // null: none
    size_t place = 0;                           // in it
  };

  bool Applies(uint32_t layer) const;
  bool Note(std::span<HeadWork> works);
  void SwapSelections(std::span<HeadWork> works);
  void Ask(uint32_t layer);
  void Forget(Layer& state);
  bool Collect(uint32_t layer, bool needed);
  void CollectHot(uint32_t layer, uint32_t candidates, bool wait);
  void Install(uint32_t layer, std::vector<PrefetchedHead> heads);
  void CountStep(std::span<HeadWork> works);
  uint32_t LayersTogether() const;
  void Send(uint32_t first, uint32_t end);
  void Request(std::vector<PrefetchLayer> asked, client::RecallQuery query,
               std::vector<client::GetItem> items);
  void TakeSpareSlots(std::span<const uint32_t> pages, uint32_t most, uint32_t leave,
                      PrefetchHead& head);
  bool AskStore(uint32_t layer, PrefetchLayer& asked, client::RecallLayer& query);
  bool AskPages(uint32_t layer, PrefetchLayer& asked, std::vector<client::GetItem>& items);
  uint32_t MostPages(uint32_t layer) const;
  void SelectNext(std::span<HeadWork> works, Score score);
  void TakeSlots(uint32_t layer, uint32_t head, uint32_t wanted, std::vector<Slot>& slots);

  const Services* const services_;
  const page::Geometry geometry_;
  Sequence* const sequence_;
  const double tau_;
  const std::shared_ptr<PrefetchCounts> counts_ = std::make_shared<PrefetchCounts>();
  std::vector<Layer> layers_;
  std::vector<std::shared_ptr<Prefetch>> requests_;  // not started yet
  std::vector<uint32_t> pinned_, keep_, victims_;    // scratch
  std::vector<PageKeys> arrived_;                    // scratch
  RebuildScratch rebuild_;
};

// The same for all sequences of a batch that speculate; `heads` works each.
void LookAhead(std::span<HeadWork> works, uint32_t heads, Speculation::Score score);
// Warms all of a batch whose policies recall.
void WarmUp(std::span<HeadWork> works, uint32_t heads, Speculation::Score score);

}  // namespace varve::worker
