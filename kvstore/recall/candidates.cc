#include "kvstore/recall/candidates.h"

#include <algorithm>
#include <cmath>

#include "kvstore/page/mass.h"
#include "kvstore/page/rerank.h"

namespace varve::recall {

uint32_t Candidates::IndexOf(uint32_t page) const {
  return static_cast<uint32_t>(std::lower_bound(pages.begin(), pages.end(), page) - pages.begin());
}

std::vector<uint32_t> Candidates::IndexesOf(std::span<const uint32_t> some) const {
  std::vector<uint32_t> indexes;
  for (const uint32_t page : some) {
    const uint32_t i = IndexOf(page);
    if (i < pages.size() && pages[i] == page) indexes.push_back(i);
  }
  return indexes;
}

std::vector<float> Candidates::ScoresOf(std::span<const uint32_t> some) const {
  std::vector<float> of;
  for (const uint32_t page : some) {
    const uint32_t i = IndexOf(page);
    of.push_back(i < pages.size() && pages[i] == page ? scores[i] : 0);
  }
  return of;
}

DroppedMass Candidates::Dropped(const page::Geometry& geometry, std::span<const uint32_t> selected,
                                bool by_keys) const {
  const size_t count = pages.size();
  DroppedMass dropped;
  for (size_t g = 0; g < geometry.group_size(); ++g) {
    const auto masses = std::span(log_mass).subspan(g * known.size(), known.size());
    // Of candidates that nothing ranked there is no telling.
    if (by_keys && known.size() + sketched.size() == count) {
      const auto of_sketches =
          std::span(sketched_log_mass).subspan(g * sketched.size(), sketched.size());
      dropped.log_estimate.push_back(
          page::LogAdd(page::LogDroppedMass(known, masses, selected),
                       page::LogDroppedMass(sketched, of_sketches, selected)));
    }
    if (log_rest.empty() || (bounds.empty() && selected.size() < count)) continue;
    float log_bound = log_rest[g];
    if (selected.size() < count) {
      const auto row = std::span(bounds).subspan(g * count, count);
      log_bound = page::LogAdd(
          log_bound, page::LogDroppedBound(row, known, masses, selected, AttentionScale(geometry),
                                           geometry.page_tokens));
    }
    dropped.log_bound.push_back(log_bound);
  }
  return dropped;
}

float AttentionScale(const page::Geometry& geometry) {
  return 1.0f / std::sqrt(static_cast<float>(geometry.head_dim));
}

uint32_t NumPages(const RowList& digests, const SelectParams& params) {
  return params.num_blocks == 0 ? digests.rows() : params.num_blocks;
}

page::AdaptiveLimits LimitsOf(const HeadQuery& head, const SelectParams& params, uint32_t pages) {
  const uint32_t ceiling = head.ceiling_pages == 0
                               ? page::CeilingPages(head.budget_pages, page::kDefaultCeiling, pages)
                               : std::min(head.ceiling_pages, pages);
  return {params.target, std::max(1u, head.floor_pages), ceiling};
}

uint32_t CandidatesOf(const HeadQuery& head, const SelectParams& params, uint32_t pages) {
  const uint32_t first = params.rerank == page::Rerank::kNone
                             ? std::min(head.budget_pages, pages)
                             : page::CandidatePages(head.budget_pages, params.multiplier, pages);
  return params.target > 0 ? std::max(first, LimitsOf(head, params, pages).ceiling) : first;
}

}  // namespace varve::recall
