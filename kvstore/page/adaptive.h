// Adaptive budgets: per KV head the fewest pages that keep a wanted share of the attention mass.
//
// Scores are shares of the mass, or proportional to them: means of softmaxes over the pages, by
// digests (ScoreMerge::kSoftmaxMean) or by keys (MassScores). The pages of a head in the order in
// which a selection takes them (pinned ones first, then by score, ties to the lower id) are its
// mass curve; a budget is a point on it. Over the heads of a layer the budgets come to a total at
// most: pages of the least mass are given up first. What a layer leaves of its total, later layers
// of the step may have. Standard library only; thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace varve::page {

// Of an adaptive budget as a multiple of the fixed one.
inline constexpr double kDefaultCeiling = 4;
inline constexpr double kMinCeiling = 1;
inline constexpr double kMaxCeiling = 1024;

struct AdaptiveLimits {
  double target = 1;     // share of the mass to reach, 0 < target <= 1
  uint32_t floor = 1;    // pages at least, and all pinned ones
  uint32_t ceiling = 1;  // pages at most; at least the pinned ones
};

struct MassCurve {
  std::vector<uint32_t> order;  // pages as a selection takes them, as far as the ceiling
  std::vector<double> shares;   // of all mass, parallel to order
  uint32_t least = 0;           // of order that are always in
  uint32_t budget = 0;          // of order that are selected
};

// The curve and its budget: the fewest pages whose shares come to the target, within floor and
// ceiling. scores: what is NaN or negative counts as no mass. pinned: ascending, without
// duplicates. whole: the mass that the shares are of, when pages that are not among these have
// some; 0: these pages' own. A larger target gives no smaller budget.
void MakeMassCurve(std::span<const float> scores, std::span<const uint32_t> pinned,
                   const AdaptiveLimits& limits, MassCurve& curve, double whole = 0);

// Lowers budgets until they come to `total` at most, or all are at their least: of the last pages
// of all curves the one of the least share goes first, ties to the later curve. Answers what they
// come to.
uint64_t FitTotal(std::span<MassCurve* const> curves, uint64_t total);

// The first `budget` of the order, ascending.
std::vector<uint32_t> SelectedPages(const MassCurve& curve);

// Pages of a ceiling that is a multiple of the budget, at most num_pages.
uint32_t CeilingPages(uint32_t budget, double ceiling, uint32_t num_pages);

}  // namespace varve::page
