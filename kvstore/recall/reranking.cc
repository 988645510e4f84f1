#include "kvstore/recall/reranking.h"

#include <algorithm>
#include <cmath>

#include "kvstore/page/digest/score.h"
#include "kvstore/page/rerank.h"

namespace varve::recall {
namespace {

// log_mass: [rows][known]. A client may store any bytes: keys that are NaN must not spoil the ranks
// of the others.
void KeepFinite(std::vector<uint32_t>& known, std::vector<float>& log_mass) {
  const size_t count = known.size();
  const auto finite = [&](size_t i) {
    for (size_t at = i; at < log_mass.size(); at += count) {
      if (!std::isfinite(log_mass[at])) return false;
    }
    return true;
  };
  std::vector<size_t> kept;
  for (size_t i = 0; i < count; ++i) {
    if (finite(i)) kept.push_back(i);
  }
  if (kept.size() == count) return;
  size_t to = 0;
  for (size_t row = 0; row < log_mass.size(); row += count) {
    for (const size_t i : kept) log_mass[to++] = log_mass[row + i];
  }
  log_mass.resize(to);
  for (size_t i = 0; i < kept.size(); ++i) known[i] = known[kept[i]];
  known.resize(kept.size());
}

}  // namespace

void Reranker::Rank(Candidates& candidates, const CandidateKeys* keys, const RowList& digests,
                    uint32_t head, const float* queries, bool keep_mass) {
  const uint32_t group = geometry_.group_size();
  const page::AttentionShape shape{group, geometry_.head_dim, geometry_.dtype,
                                   AttentionScale(geometry_)};
  if (keys != nullptr) ByKeys(candidates, *keys, head, shape, queries);
  if (page::HasSketch(kind_)) BySketches(candidates, digests, head, shape, queries);
  const size_t known = candidates.known.size(), sketched = candidates.sketched.size();
  ranked_ = candidates.known;
  ranked_.insert(ranked_.end(), candidates.sketched.begin(), candidates.sketched.end());
  log_mass_.clear();
  for (uint32_t g = 0; g < group; ++g) {
    const auto exact = candidates.log_mass.begin() + g * known;
    const auto by_sketch = candidates.sketched_log_mass.begin() + g * sketched;
    log_mass_.insert(log_mass_.end(), exact, exact + known);
    log_mass_.insert(log_mass_.end(), by_sketch, by_sketch + sketched);
  }
  const size_t count = candidates.pages.size();
  exact_ += known;
  sketched_ += sketched;
  estimated_ += count - ranked_.size();
  masses_.resize(ranked_.size());
  page::MassScores(log_mass_.data(), group, static_cast<uint32_t>(ranked_.size()), masses_.data());
  const std::vector<float> by_digest = std::move(candidates.scores);
  candidates.scores.resize(count);
  page::FillScores(by_digest, ranked_, masses_, candidates.scores);
  if (keep_mass) return;
  candidates.log_mass.clear();
  candidates.sketched_log_mass.clear();
}

void Reranker::ByKeys(Candidates& candidates, const CandidateKeys& keys, uint32_t head,
                      const page::AttentionShape& shape, const float* queries) {
  views_.clear();
  for (uint32_t i = 0; i < candidates.pages.size(); ++i) {
    const std::byte* k = keys.Keys(candidates.pages[i], head);
    if (k == nullptr) continue;
    candidates.known.push_back(i);
    views_.push_back({k, nullptr, geometry_.page_tokens});
  }
  candidates.log_mass.resize(shape.group_size * views_.size());
  page::PageLogMass(shape, queries, views_, candidates.log_mass.data());
  KeepFinite(candidates.known, candidates.log_mass);
}

// Of the candidates without keys.
void Reranker::BySketches(Candidates& candidates, const RowList& digests, uint32_t head,
                          const page::AttentionShape& shape, const float* queries) {
  const size_t offset = page::SketchOffset(kind_, geometry_.head_dim, geometry_.dtype);
  sketches_.clear();
  for (uint32_t i = 0; i < candidates.pages.size(); ++i) {
    if (std::binary_search(candidates.known.begin(), candidates.known.end(), i)) continue;
    candidates.sketched.push_back(i);
    digests.ForEachPiece(
        candidates.pages[i], 1, [&](const RowChunk& chunk, uint32_t row, uint32_t, uint32_t) {
          sketches_.push_back(chunk.head(head) + row * digests.format().head_bytes + offset);
        });
  }
  candidates.sketched_log_mass.resize(shape.group_size * sketches_.size());
  page::SketchLogMass(kind_, geometry_.page_tokens, shape, queries, sketches_,
                      candidates.sketched_log_mass.data());
  KeepFinite(candidates.sketched, candidates.sketched_log_mass);
}

}  // namespace varve::recall
