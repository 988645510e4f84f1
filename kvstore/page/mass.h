// Certificate of a selection: a proven upper bound of the attention mass that the unselected pages
// would have had.
//
// With upper bounds ub_i of every logit of page i (MINMAX scores times the attention scale), the
// mass of unselected pages is at most D = sum_unselected tokens * exp(ub_i), so the dropped share
// of one query head is at most D / (D + Z_kept). Thread-safe; no allocation; no exceptions.
#pragma once

#include <cstdint>
#include <span>

namespace varve::page {

// Upper bound of 1 - kept mass, in 0 .. 1, rounded up, for one query head.
//   scores       upper bound of q.k per page, unscaled (a row of ScorePages over MINMAX digests)
//   score_slack  what the scores may lie below the true bound by rounding (score.h states it);
//   added to each selected     ids of the attended pages, ascending, without duplicates page_tokens
//   greatest number of tokens of an unselected page kept_lse     log-sum-exp of the scaled logits
//   over the selected pages (AttendPages' lse); -inf when none
float DroppedMassBound(std::span<const float> scores, float score_slack,
                       std::span<const uint32_t> selected, float scale, uint32_t page_tokens,
                       float kept_lse);

}  // namespace varve::page
