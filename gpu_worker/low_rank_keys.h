// The keys of one layer of a sequence as low-rank rows (policy shadowkv; ShadowKV, arXiv
// 2410.21465).
//
// Blocks are added in order: their keys, turned back to where they had no positions, make the Gram
// matrix from which Fit takes the subspace. Then they are projected in order, again from the exact
// keys, and from there on every key of a projected block can be rebuilt, turned by its position, as
// the same bits each time. What is rebuilt depends on the tokens before Fit, not on how they came.
// Per KV head the pages that their mean key tells worst are outliers (page/lowrank/landmark.h).
//
// One call at a time. Keys are post-RoPE, of the geometry's dtype.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/policy.h"
#include "gpu_worker/rope_positions.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/lowrank/gram.h"
#include "kvstore/page/lowrank/low_rank.h"
#include "kvstore/page/lowrank/subspace.h"
#include "kvstore/page/select.h"

namespace varve::worker {

// What is wrong with the policy for such keys, and what is allowed.
absl::Status CheckLowRank(const Policy& policy, const page::Geometry& geometry);

class LowRankKeys {
 public:
  // REQUIRES: CheckLowRank. positions outlives it.
  LowRankKeys(const page::Geometry& geometry, const Policy& policy, RopePositions* positions);

  // Keys of the next block, [page_tokens][head_dim] of each KV head, all finite.
  // INVALID_ARGUMENT when they cannot be turned back within single precision.
  absl::Status Add(std::span<const std::byte* const> keys);
  uint32_t added() const { return added_; }
  // As if nothing had been added.
  void StartAgain();
  // Makes the subspace of what was added, and chooses so many outliers of each KV head among it.
  absl::Status Fit(uint32_t outlier_pages);
  bool fitted() const { return subspace_.rank > 0; }

  // Keys of the next block, as in Add, after Fit.
  absl::Status Project(std::span<const std::byte* const> keys);
  uint32_t projected() const { return projected_; }
  // Keys of a projected page, [page_tokens][head_dim].
  void Rebuild(uint32_t head, uint32_t page, std::byte* keys);

  // Ascending; none before Fit.
  std::span<const uint32_t> outliers(uint32_t head) const { return outliers_[head]; }
  bool IsOutlier(uint32_t head, uint32_t page) const;

  const page::Subspace& subspace() const { return subspace_; }
  // Of what was projected.
  const page::ProjectionEnergy& energy() const { return energy_; }

 private:
  // [page_tokens][num_kv_heads][head_dim] without positions, in plain_.
  void TurnBack(uint32_t page, std::span<const std::byte* const> keys);

  const page::Geometry geometry_;
  const page::RankRule rule_;
  RopePositions* const positions_;
  std::optional<page::GramAccumulator> gram_;  // of what was added, until Fit
  uint32_t added_ = 0;
  std::vector<std::vector<float>> cosines_;  // least of each block, by head
  page::Subspace subspace_;
  page::ProjectionEnergy energy_;
  uint32_t projected_ = 0;
  std::vector<std::byte> rows_;  // [projected][page_tokens][rank] of the geometry's dtype
  std::vector<std::vector<uint32_t>> outliers_;  // by head
  std::vector<float> plain_, turned_;            // scratch
  std::vector<std::byte> landmark_;              // scratch
  std::vector<const std::byte*> row_list_;       // scratch
  page::SelectScratch select_;
};

}  // namespace varve::worker
