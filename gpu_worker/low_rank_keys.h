// The keys of one layer of a sequence as low-rank rows (policy shadowkv; ShadowKV, arXiv
// 2410.21465).
//
// Blocks are added in order: their keys, turned back to where they had no positions, make the Gram
// matrix from which Fit takes the subspace. Then they are projected in order, again from the exact
// keys, and from there on every key of a projected block can be rebuilt, turned by its position, as
// the same bits each time. What is rebuilt depends on the tokens before Fit, not on how they came.
// Per KV head the pages that their mean key tells worst are outliers (page/lowrank/landmark.h).
//
// When blocks that came after Fit lie too far outside the subspace (page::RefreshRule), later ones
// get a new one (Refit); rows that are there keep theirs, so nothing of them is lost.
//
// One call at a time, but for Rebuild. Keys are post-RoPE, of the geometry's dtype.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/policy.h"
#include "gpu_worker/rope_positions.h"
#include "kvstore/base/row_memory.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/lowrank/gram.h"
#include "kvstore/page/lowrank/low_rank.h"
#include "kvstore/page/lowrank/subspace.h"
#include "kvstore/page/select.h"

namespace varve::worker {

// What is wrong with the policy for such keys, and what is allowed.
absl::Status CheckLowRank(const Policy& policy, const page::Geometry& geometry);

// What a layer should take by page/lowrank/memory.h, with a budget of so many pages and so many
// tokens kept beside it. Its ids are those of the hot sets, which are not counted.
uint64_t FormulaBytes(const Policy& policy, const page::Geometry& geometry, uint32_t budget_pages,
                      uint32_t window_tokens, uint64_t tokens);

// A new subspace of a layer, made by a thread that has the time: it takes seconds for wide keys.
class Refit {
 public:
  // gram: of so many tokens that lie outside the subspace `from`.
  Refit(std::vector<double> gram, uint64_t tokens, const page::Subspace& from,
        const page::RankRule& rule)
      : bytes_(gram.size() * sizeof(double)),
        gram_(std::move(gram)),
        tokens_(tokens),
        from_(from),
        rule_(rule) {}

  // Once. Of these tokens and as many of those that `from` is of. Answers what share of their
  // energy the new subspace drops, or why there is none.
  absl::StatusOr<double> Run(const page::SymmetricSolver& solver);
  bool done() const { return done_.load(std::memory_order_acquire); }
  // Held until it is done.
  size_t bytes() const { return bytes_; }

 private:
  friend class LowRankKeys;
  const size_t bytes_;
  std::vector<double> gram_;
  const uint64_t tokens_;
  const page::Subspace from_;
  const page::RankRule rule_;
  page::Subspace made_;  // of no rank when there is none
  std::atomic<bool> done_{false};
};

// Where the keys of a page belong, [page_tokens][head_dim].
struct PageKeys {
  uint32_t page = 0;
  std::byte* keys = nullptr;
};

// What rebuilding needs, of one thread.
struct RebuildScratch {
  std::vector<const std::byte*> rows;
  std::vector<float> plain;
  std::vector<PageKeys> pages;  // of Sequence::RebuildKeys
};

class LowRankKeys {
 public:
  // REQUIRES: CheckLowRank. positions outlives it.
  LowRankKeys(const page::Geometry& geometry, const Policy& policy, RopePositions* positions);

  // Keys of the next block, [page_tokens][head_dim] of each KV head, all finite.
  // INVALID_ARGUMENT when they cannot be turned back within single precision.
  absl::Status Add(std::span<const std::byte* const> keys);
  uint32_t added() const { return added_; }
  // As if nothing had been added or fitted.
  void StartAgain();
  // Makes the subspace of what was added, and chooses so many outliers of each KV head among it.
  absl::Status Fit(uint32_t outlier_pages, const page::SymmetricSolver& solver);
  bool fitted() const { return !segments_.empty(); }

  // Keys of the next block, as in Add, after Fit. REQUIRES: CanProject.
  absl::Status Project(std::span<const std::byte* const> keys);
  uint32_t projected() const { return projected_; }
  // Work for another thread when a new subspace is due, else null. From then until it is done the
  // next block should wait, with its exact keys: CanProject.
  std::shared_ptr<Refit> TakeRefit();
  bool CanProject() const { return refit_ == nullptr || refit_->done(); }
  // Keys of projected pages. Many at once take less time than one after the other, and become the
  // same. Threads may do so at the same time, each with its own scratch, while nothing else is
  // called.
  void Rebuild(uint32_t head, std::span<const PageKeys> pages, RebuildScratch& scratch) const;

  // Ascending; none before Fit.
  std::span<const uint32_t> outliers(uint32_t head) const { return outliers_[head]; }
  bool IsOutlier(uint32_t head, uint32_t page) const;

  // The latest.
  const page::Subspace& subspace() const { return segments_.back().subspace; }
  size_t subspaces() const { return segments_.size(); }
  // Of what was projected.
  const page::ProjectionEnergy& energy() const { return energy_; }
  // Bytes of rows (A), of all subspaces (B), and of Gram matrices.
  size_t row_bytes() const;
  size_t basis_bytes() const;
  size_t gram_bytes() const {
    return (gram_.has_value() ? gram_->bytes() : 0) + (CanProject() ? 0 : refit_->bytes());
  }

 private:
  // [page_tokens][num_kv_heads][head_dim] without positions, in plain_.
  void TurnBack(uint32_t page, std::span<const std::byte* const> keys);

  const page::Geometry geometry_;
  const page::RankRule rule_;
  page::RefreshRule refresh_;
  RopePositions* const positions_;
  // Consecutive blocks with rows of one subspace.
  struct Segment {
    page::Subspace subspace;
    uint32_t first_page = 0;
    // [block][page_tokens][rank] of the geometry's dtype, kPagesOfRows blocks in each.
    std::vector<std::vector<std::byte, base::RowAllocator<std::byte>>> rows;
  };
  static constexpr uint32_t kPagesOfRows = 64;
  size_t BlockBytes(const Segment& segment) const {
    return geometry_.page_tokens * page::RowBytes(segment.subspace, geometry_.dtype);
  }
  const Segment& SegmentOf(uint32_t page) const;
  const std::byte* RowsOf(const Segment& segment, uint32_t page) const;
  void AdoptRefit();

  // Of what was added, until Fit; after it of the blocks since they were found to be outside.
  std::optional<page::GramAccumulator> gram_;
  page::ProjectionEnergy recent_;  // of the blocks since the last look
  uint32_t added_ = 0;
  std::vector<std::vector<float>> cosines_;  // least of each block, by head
  std::vector<Segment> segments_;            // ascending; empty before Fit
  std::shared_ptr<Refit> refit_;             // under way, or done and not adopted
  page::ProjectionEnergy energy_;
  uint32_t projected_ = 0;
  std::vector<std::vector<uint32_t>> outliers_;  // by head
  std::vector<float> plain_, turned_;            // scratch
  std::vector<std::byte> landmark_;              // scratch
  page::SelectScratch select_;
};

}  // namespace varve::worker
