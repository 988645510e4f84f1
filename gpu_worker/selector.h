// Which candidate pages a query attends to, per KV head, decided on this worker: by policy alone
// where that suffices, else by the local digests (page::ScorePages, MergeScores, SelectPages).
//
// One selector serves one call at a time; its buffers are reused, so a warm step allocates nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "gpu_worker/sequence.h"
#include "kvstore/page/adaptive.h"
#include "kvstore/page/select.h"

namespace varve::worker {

// One KV head of one sequence in one Attend call.
struct HeadWork {
  Sequence* sequence = nullptr;
  LayerCache* cache = nullptr;
  uint32_t layer = 0;
  uint32_t head = 0;
  uint32_t candidates = 0;   // pages [0, candidates) are chosen from
  const float* q = nullptr;  // [group_size][head_dim]
  float* out = nullptr;
  float* lse = nullptr;  // null: not wanted
  bool fetched = false;  // the store has chosen and pushed already
  bool kept = false;     // attends to what the step before selected (Speculation)

  std::vector<uint32_t>& selected() const { return cache->attended[head]; }
  HotSet& hot() const { return cache->heads[head]; }
  std::span<const BlockState> states() const {
    return std::span<const BlockState>(cache->blocks).first(candidates);
  }

  // What the selection drops, per query head (page/mass.h); empty: unknown.
  std::vector<float> log_dropped_bound;
  std::vector<float> log_dropped_estimate;
  // Adaptive budgets: what was scored, until the budgets of the layer are known.
  page::MassCurve curve;
  std::vector<float> curve_bounds;  // [group_size][curve.order]; empty: none
  // Shares of all attention mass that are kept, mean over the query heads, once attended: at least
  // kept_bound, by estimate kept_estimate.
  std::optional<double> kept_bound;
  std::optional<double> kept_estimate;

  // Fetched in this step, under policies with low-rank keys: those are to be rebuilt.
  std::vector<PageKeys> arrived;

  // Buffers of the recaller.
  page::HotSetPlan plan;
  std::vector<Slot> slots;
};

struct SelectTimes {
  double score_seconds = 0;
  double select_seconds = 0;
};

// Those of the thread that took longest.
SelectTimes Busiest(std::span<const SelectTimes> by_thread);

class Selector {
 public:
  explicit Selector(const page::Geometry& geometry) : geometry_(geometry) {}

  // True when policy and budget decide without scores; then selected() is set. Nothing is known of
  // what is dropped, unless that is nothing.
  bool SelectWithoutScores(HeadWork& work);
  // Scores the local digests and sets selected() and log_dropped_bound; the hot set learns the
  // scores. An adaptive budget leaves that at the curve: FitBudgets follows. Outliers are selected
  // beside the budget; digests do not score them.
  void SelectByDigests(HeadWork& work, SelectTimes& times);
  // For the works of one sequence and layer, one per KV head.
  void FitBudgets(std::span<HeadWork> works);

 private:
  void ScoreBySketches(const HeadWork& work, const page::DigestMatrix& digests);
  void SelectFixed(HeadWork& work, std::span<const float> scores);
  void MakeCurve(HeadWork& work, std::span<const float> scores);
  float LogDropped(std::span<const float> bounds, std::span<const uint32_t> selected) const;

  const page::Geometry geometry_;
  std::vector<float> raw_;
  std::vector<float> bounds_;  // a copy of raw_, as merging overwrites it; empty: no bounds
  std::vector<float> scores_;
  std::vector<uint32_t> pinned_;       // with the outliers
  std::vector<uint32_t> by_position_;  // without
  // Of a second stage; no candidates: none.
  std::vector<uint32_t> candidates_;
  std::vector<const std::byte*> sketches_;
  std::vector<float> log_mass_;  // [group_size][candidates_]
  std::vector<float> shares_;    // of candidates_
  page::SelectScratch scratch_;
};

}  // namespace varve::worker
