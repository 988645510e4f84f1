// The second stage of a selection (page/rerank.h), over the objects of the store.
//
// Candidates whose keys are not in host memory, or are not finite, are ranked by their digests
// (page::FillScores). Threads: one Reranker per thread; its buffers are reused.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/page/attention.h"
#include "kvstore/page/select.h"
#include "kvstore/recall/candidate_keys.h"

namespace varve::recall {

// Of one (layer, KV head).
struct Candidates {
  std::vector<uint32_t> pages;  // ascending
  std::vector<float> scores;    // by their digests
};

class Reranker {
 public:
  explicit Reranker(const page::Geometry& geometry) : geometry_(geometry) {}

  // The best `budget` of the candidates, ascending, all of pinned among them. queries:
  // [group_size][head_dim]. pinned: ascending, candidates.
  std::vector<uint32_t> Select(const Candidates& candidates, const CandidateKeys& keys,
                               uint32_t head, const float* queries,
                               std::span<const uint32_t> pinned, uint32_t budget);

  // Of all that was selected: candidates ranked by their keys, and by their digests.
  uint64_t exact_pages() const { return exact_; }
  uint64_t estimated_pages() const { return estimated_; }

 private:
  void KeepFinite();

  const page::Geometry geometry_;
  uint64_t exact_ = 0;
  uint64_t estimated_ = 0;
  std::vector<page::PageView> views_;
  std::vector<uint32_t> known_;   // indexes of candidates
  std::vector<float> log_mass_;   // [group_size][known_]
  std::vector<float> masses_;     // of known_
  std::vector<float> scores_;     // of all candidates
  std::vector<uint32_t> pinned_;  // indexes of candidates
  page::SelectScratch scratch_;
};

}  // namespace varve::recall
