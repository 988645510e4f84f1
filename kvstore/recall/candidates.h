// The pages of one (layer, KV head) that a selection chooses from in a later stage, by their keys
// or when the budgets of all heads are known.
//
// Values; functions on what they are given.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kvstore/page/adaptive.h"
#include "kvstore/page/geometry.h"
#include "kvstore/recall/context_table.h"
#include "kvstore/recall/shared_rows.h"

namespace varve::recall {

struct Candidates {
  std::vector<uint32_t> pages;   // ascending
  std::vector<uint32_t> pinned;  // indexes of pages, ascending
  std::vector<float> scores;     // by their digests, then by their keys
  // For a certificate: upper bounds of q.k [group_size][pages], and per query head LogDroppedBound
  // of the pages that are no candidates. Empty: unknown.
  std::vector<float> bounds;
  std::vector<float> log_rest;
  // Those whose keys were looked at (indexes, ascending), and their log mass [group_size][known];
  // the same of those of whose keys there was a sketch.
  std::vector<uint32_t> known;
  std::vector<float> log_mass;
  std::vector<uint32_t> sketched;
  std::vector<float> sketched_log_mass;
  page::MassCurve curve;  // of an adaptive budget, over indexes

  // Of one of pages.
  uint32_t IndexOf(uint32_t page) const;
  // Of those of the given pages that are among these, in turn.
  std::vector<uint32_t> IndexesOf(std::span<const uint32_t> some) const;
  // The scores of the given pages (ascending), 0 for those that are not among these.
  std::vector<float> ScoresOf(std::span<const uint32_t> some) const;
  // What a selection of these indexes (ascending) drops. by_keys: with an estimate.
  DroppedMass Dropped(const page::Geometry& geometry, std::span<const uint32_t> selected,
                      bool by_keys) const;
};

float AttentionScale(const page::Geometry& geometry);
// Pages among which is chosen.
uint32_t NumPages(const RowList& digests, const SelectParams& params);
// Of an adaptive budget among so many pages.
page::AdaptiveLimits LimitsOf(const HeadQuery& head, const SelectParams& params, uint32_t pages);
// Pages that the digests choose: the budget, or what a later stage chooses from.
uint32_t CandidatesOf(const HeadQuery& head, const SelectParams& params, uint32_t pages);

}  // namespace varve::recall
