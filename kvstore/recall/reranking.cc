#include "kvstore/recall/reranking.h"

#include <algorithm>
#include <cmath>

#include "kvstore/page/rerank.h"

namespace varve::recall {

void Reranker::Rank(Candidates& candidates, const CandidateKeys& keys, uint32_t head,
                    const float* queries, bool keep_mass) {
  const auto count = static_cast<uint32_t>(candidates.pages.size());
  views_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    const std::byte* k = keys.Keys(candidates.pages[i], head);
    if (k == nullptr) continue;
    candidates.known.push_back(i);
    views_.push_back({k, nullptr, geometry_.page_tokens});
  }
  const uint32_t group = geometry_.group_size();
  log_mass_.resize(group * views_.size());
  const page::AttentionShape shape{group, geometry_.head_dim, geometry_.dtype,
                                   AttentionScale(geometry_)};
  page::PageLogMass(shape, queries, views_, log_mass_.data());
  KeepFinite(candidates.known);
  const auto known = static_cast<uint32_t>(candidates.known.size());
  exact_ += known;
  estimated_ += count - known;
  if (keep_mass) candidates.log_mass = log_mass_;
  masses_.resize(known);
  page::MassScores(log_mass_.data(), group, known, masses_.data());
  const std::vector<float> by_digest = std::move(candidates.scores);
  candidates.scores.resize(count);
  page::FillScores(by_digest, candidates.known, masses_, candidates.scores);
}

// A client may store any bytes: keys that are NaN must not spoil the ranks of the others.
void Reranker::KeepFinite(std::vector<uint32_t>& known) {
  const size_t count = known.size();
  const auto finite = [&](size_t i) {
    for (size_t at = i; at < log_mass_.size(); at += count) {
      if (!std::isfinite(log_mass_[at])) return false;
    }
    return true;
  };
  std::vector<size_t> kept;
  for (size_t i = 0; i < count; ++i) {
    if (finite(i)) kept.push_back(i);
  }
  if (kept.size() == count) return;
  size_t to = 0;
  for (size_t row = 0; row < log_mass_.size(); row += count) {
    for (const size_t i : kept) log_mass_[to++] = log_mass_[row + i];
  }
  log_mass_.resize(to);
  for (size_t i = 0; i < kept.size(); ++i) known[i] = known[kept[i]];
  known.resize(kept.size());
}

}  // namespace varve::recall
