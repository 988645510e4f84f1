#include "kvstore/recall/reranking.h"

#include <algorithm>
#include <cmath>

#include "kvstore/page/rerank.h"

namespace varve::recall {

std::vector<uint32_t> Reranker::Select(const Candidates& candidates, const CandidateKeys& keys,
                                       uint32_t head, const float* queries,
                                       std::span<const uint32_t> pinned, uint32_t budget) {
  const auto count = static_cast<uint32_t>(candidates.pages.size());
  known_.clear();
  views_.clear();
  for (uint32_t i = 0; i < count; ++i) {
    const std::byte* k = keys.Keys(candidates.pages[i], head);
    if (k == nullptr) continue;
    known_.push_back(i);
    views_.push_back({k, nullptr, geometry_.page_tokens});
  }
  const uint32_t group = geometry_.group_size();
  log_mass_.resize(size_t{group} * known_.size());
  const page::AttentionShape shape{group, geometry_.head_dim, geometry_.dtype,
                                   1.0f / std::sqrt(static_cast<float>(geometry_.head_dim))};
  page::PageLogMass(shape, queries, views_, log_mass_.data());
  KeepFinite();
  const auto known = static_cast<uint32_t>(known_.size());
  exact_ += known;
  estimated_ += count - known;
  masses_.resize(known);
  page::MassScores(log_mass_.data(), group, known, masses_.data());
  scores_.resize(count);
  page::FillScores(candidates.scores, known_, masses_, scores_);

  pinned_.clear();
  for (const uint32_t page : pinned) {
    const auto found = std::lower_bound(candidates.pages.begin(), candidates.pages.end(), page);
    pinned_.push_back(static_cast<uint32_t>(found - candidates.pages.begin()));
  }
  std::vector<uint32_t> selected(std::min(count, budget));
  selected.resize(page::SelectPages(scores_, pinned_, budget, scratch_, selected));
  for (uint32_t& page : selected) page = candidates.pages[page];
  return selected;
}

// A client may store any bytes: keys that are NaN must not spoil the ranks of the others.
void Reranker::KeepFinite() {
  const size_t count = known_.size();
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
  for (size_t i = 0; i < kept.size(); ++i) known_[i] = known_[kept[i]];
  known_.resize(kept.size());
}

}  // namespace varve::recall
