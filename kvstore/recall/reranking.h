// The second stage of a selection (page/rerank.h), over the objects of the store.
//
// Candidates whose keys are not in host memory, or are not finite, are ranked by their digests
// (page::FillScores). Threads: one Reranker per thread; its buffers are reused.
#pragma once

#include <cstdint>
#include <vector>

#include "kvstore/page/attention.h"
#include "kvstore/recall/candidate_keys.h"
#include "kvstore/recall/candidates.h"

namespace varve::recall {

class Reranker {
 public:
  explicit Reranker(const page::Geometry& geometry) : geometry_(geometry) {}

  // Ranks the candidates by their keys: sets scores and known, and log_mass when wanted. queries:
  // [group_size][head_dim].
  void Rank(Candidates& candidates, const CandidateKeys& keys, uint32_t head, const float* queries,
            bool keep_mass);

  // Of all so far: candidates ranked by their keys, and by their digests.
  uint64_t exact_pages() const { return exact_; }
  uint64_t estimated_pages() const { return estimated_; }

 private:
  void KeepFinite(std::vector<uint32_t>& known);

  const page::Geometry geometry_;
  uint64_t exact_ = 0;
  uint64_t estimated_ = 0;
  std::vector<page::PageView> views_;
  std::vector<float> log_mass_;  // [group_size][known]
  std::vector<float> masses_;    // of known
};

}  // namespace varve::recall
