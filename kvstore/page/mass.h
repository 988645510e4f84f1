// Certificate of a selection: a proven upper bound of the attention mass that the unselected pages
// would have had.
//
// With upper bounds ub_i of every logit of page i (scores of a kind whose Info says is_upper_bound,
// times the attention scale), the mass of unselected pages is at most D = sum_unselected tokens *
// exp(ub_i); where a page's keys were looked at, its exact mass takes the place of its bound. The
// dropped share of one query head is then at most D / (D + Z_kept). D is summed over the unselected
// pages, never as a difference, and kept as a logarithm, so that it can travel.
//
// Rounding: the functions round up what they add themselves; what the dot products may be off
// (LogitSlack) is added once, by DroppedShare. Thread-safe; no allocation; no exceptions.
#pragma once

#include <cstdint>
#include <span>

#include "kvstore/page/digest/digest.h"

namespace varve::page {

// log of D for one query head, but for the slack of the scores. -infinity: nothing is dropped;
// +infinity: nothing is known, as a score is NaN or infinite.
//   scores       upper bound of q.k per page, unscaled (a row of ScorePages)
//   selected     ids of the attended pages, ascending, without duplicates
//   page_tokens  greatest number of tokens of an unselected page
float LogDroppedBound(std::span<const float> scores, std::span<const uint32_t> selected,
                      float scale, uint32_t page_tokens);

// The same for pages that were ranked by their keys: scores[i] of page i, and of the pages
// `known` (ascending indexes) their log mass (PageLogMass), which takes the place of a greater
// bound.
float LogDroppedBound(std::span<const float> scores, std::span<const uint32_t> known,
                      std::span<const float> log_mass, std::span<const uint32_t> selected,
                      float scale, uint32_t page_tokens);

// log(exp(a) + exp(b)), rounded up.
float LogAdd(float a, float b);

// Log of the mass of the `known` pages that are not selected, as it is (not rounded up).
float LogDroppedMass(std::span<const uint32_t> known, std::span<const float> log_mass,
                     std::span<const uint32_t> selected);

// At least the magnitude of every element of the keys that a digest is of; +infinity for kinds that
// cannot tell.
float LargestKeyElement(DigestKind kind, const void* row, uint32_t head_dim, DType dtype);

// What a scaled logit, or a score times the scale, may be off by the rounding that score.h and
// attention.h allow. largest_key: at least the magnitude of every element of every key
// (LargestKeyElement, MaxMagnitude).
float LogitSlack(std::span<const float> q, float largest_key, float scale);

// Upper bound of the dropped share of all mass, in 0 .. 1, rounded up, for one query head.
//   log_dropped  LogDroppedBound; -infinity: 0
//   kept_lse     log-sum-exp of the scaled logits over the attended pages (AttendPages' lse);
//                -infinity when none
//   kept_pages   how many pages that were
//   slack        LogitSlack over all keys
float DroppedShare(float log_dropped, float kept_lse, uint32_t kept_pages, float slack);

}  // namespace varve::page
