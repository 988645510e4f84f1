// The second stage of a selection (page/rerank.h), over the objects of the store.
//
// Candidates whose keys are not in host memory, or are not finite, are ranked by the sketches of
// their keys where the digests have them, else by their digests (page::FillScores). Threads: one
// Reranker per thread; its buffers are reused.
#pragma once

#include <cstdint>
#include <vector>

#include "kvstore/page/attention.h"
#include "kvstore/recall/candidate_keys.h"
#include "kvstore/recall/candidates.h"

namespace varve::recall {

class Reranker {
 public:
  Reranker(const page::Geometry& geometry, page::DigestKind kind)
      : geometry_(geometry), kind_(kind) {}

  // Ranks the candidates: sets scores, and known, sketched and their masses when wanted. keys: null
  // when sketches alone rank. digests: of the layer. queries: [group_size][head_dim].
  void Rank(Candidates& candidates, const CandidateKeys* keys, const RowList& digests,
            uint32_t head, const float* queries, bool keep_mass);

  // Of all so far: candidates ranked by their keys, by sketches, and by their digests.
  uint64_t exact_pages() const { return exact_; }
  uint64_t sketched_pages() const { return sketched_; }
  uint64_t estimated_pages() const { return estimated_; }

 private:
  void ByKeys(Candidates& candidates, const CandidateKeys& keys, uint32_t head,
              const page::AttentionShape& shape, const float* queries);
  void BySketches(Candidates& candidates, const RowList& digests, uint32_t head,
                  const page::AttentionShape& shape, const float* queries);

  const page::Geometry geometry_;
  const page::DigestKind kind_;
  uint64_t exact_ = 0;
  uint64_t sketched_ = 0;
  uint64_t estimated_ = 0;
  std::vector<page::PageView> views_;
  std::vector<const std::byte*> sketches_;
  std::vector<uint32_t> ranked_;  // known, then sketched
  std::vector<float> log_mass_;   // [group_size][ranked_]
  std::vector<float> masses_;     // of ranked_
};

}  // namespace varve::recall
