// What a sequence keeps, evicts and attends to: policies by name and parameters, all through one
// code path.
//
//   full                    every page resident and attended
//   streaming(budget=0.1)   sinks and the most recent pages only; the rest is dropped for good
//                           (StreamingLLM)
//   quest(budget=0.1)       every page resident, the selected ones attended (Quest)
//   arkvale(budget=0.1)     a hot set resident, selected pages attended, missing ones recalled from
//                           the store (ArkVale)
//   shadowkv(budget=0.1)    as arkvale, but the worker keeps low-rank keys of the pages that have
//                           left the window: those of a recalled page are rebuilt, and only its
//                           values come from the store (ShadowKV). Needs the geometry's RoPE
//                           parameters; a chunk is a page, so page_tokens 8 is ShadowKV's
//
// full has no parameters, streaming those up to window and generated, quest also merge, target and
// ceiling; rank, energy, outliers and refresh are shadowkv's, which has no target. Others are of
// both that recall.
//
// Parameters:
//   budget     pages attended per layer and KV head: a fraction (0 < f <= 1) of the pages of the
//              prompt, or "64p" pages; when generated pages are paged it stays so while they come
//   min        least budget in pages (default 3)
//   sinks      first pages always in (default 1; counted in the budget)
//   window     last prompt pages always in (default 1; counted)
//   hot        hot-set pages as a multiple of the budget (default 2). 1: what the step before
//              selected, and no more
//   victims    which pages leave a full hot set: score | lru, those of the lowest smoothed score
//              or the least recently selected ones (default score)
//   smoothing  of the scores that victims are chosen by: the weight of all steps before, 0..0.999
//              (default 0.5; 0: the last step's alone, as ArkVale does)
//   hysteresis a missing page takes the place of a resident one only when its score, a share of the
//              attention mass, is more than 1 + hysteresis times as high, 0..100 (default 0: what
//              is selected does not depend on what is resident). Needs merge softmax_mean or
//              softmax_max, or a second stage, and no target
//   merge      softmax_mean | softmax_max | max | mean (default softmax_mean; of shadowkv
//              softmax_max)
//   rerank     none | exact | sketch: a second stage, by the keys in the store (recall path store
//              only) or by sketches of them where the digests have those (default none)
//   multiplier candidates of the second stage as a multiple of the budget (default 4)
//   tau        speculation (speculation.h): a KV head whose queries have a mean cosine of at least
//              tau with the step before attends to what those selected, which was fetched ahead
//              (-1..1; default: none; 1: always selects anew; 0.85 is FreeKV's)
//   ahead      pages fetched ahead per layer and KV head at most, as a multiple of the budget
//              (above 0, at most 1; default 0.25)
//   target     share of the attention mass to keep, 0 < t <= 1: a KV head has the fewest pages that
//              reach it by their scores, from `min` on; the KV heads of a layer have no more
//              together than with the fixed budget and what earlier layers of the step have left
//              of theirs (default: none, the budget is fixed). Needs merge softmax_mean, and no
//              tau
//   ceiling    with a target: pages of one KV head at most, as a multiple of the budget
//              (default 4). Where the store scores, the page pool needs room for so many of each KV
//              head of a layer
//   generated  pinned: pages of generated tokens are always attended and not counted; paged:
//              they age like prompt pages (default pinned; of shadowkv paged)
//   rank       numbers that a token's keys of all KV heads are kept as in a layer, 1..8192 (default
//              160)
//   energy     0 < e <= 1: as few of them, up to `rank`, as keep this share of the energy that the
//              keys of the prompt have (default: none, always `rank`)
//   outliers   pages of each KV head that their mean key tells worst, which are attended always,
//              with exact keys, and not counted: a multiple of the budget, 0..16 (default 0.1875,
//              ShadowKV's 48 chunks for 256)
//   refresh    0 < r <= 1: later pages get a subspace of their own once such a share more of their
//              keys' energy lies outside the one there is than of what it was made from (default
//              0.1; 1: never, as ShadowKV)
//
// Immutable values, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kvstore/page/adaptive.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/rerank.h"
#include "kvstore/page/select.h"

namespace varve::worker {

enum class PolicyKind { kFull, kStreaming, kQuest, kArkVale, kShadowKV };
enum class Victims { kScore, kLru };

struct Policy {
  PolicyKind kind = PolicyKind::kFull;
  double budget_fraction = 1.0;  // used when budget_pages is 0
  uint32_t budget_pages = 0;
  uint32_t min_pages = 3;
  uint32_t sinks = 1;
  uint32_t window = 1;
  double hot = 2.0;
  Victims victims = Victims::kScore;
  double smoothing = 0.5;
  double hysteresis = 0;
  page::ScoreMerge merge = page::ScoreMerge::kSoftmaxMean;
  page::Rerank rerank = page::Rerank::kNone;
  double multiplier = page::kDefaultMultiplier;
  std::optional<double> tau;
  double ahead = 0.25;
  double target = 0;  // 0: the budget is fixed
  double ceiling = page::kDefaultCeiling;
  bool generated_pinned = true;
  uint32_t rank = 160;
  double energy = 0;  // 0: none
  double outliers = 0.1875;
  double refresh = 0.1;

  bool low_rank() const { return kind == PolicyKind::kShadowKV; }
  bool recalls() const { return kind == PolicyKind::kArkVale || low_rank(); }
  bool selects() const { return kind == PolicyKind::kQuest || recalls(); }
  bool evicts() const { return kind == PolicyKind::kStreaming || recalls(); }
  bool adapts() const { return target > 0; }

  // Pages attended of a prompt of so many pages, per layer and KV head: at most prompt_pages, or,
  // when generated pages are paged too, also more, of those that are to come.
  uint32_t BudgetPages(uint32_t prompt_pages) const;

  std::string ToString() const;
};

// "name" or "name(key=value,...)". INVALID_ARGUMENT names the unknown part and lists what is known.
absl::StatusOr<Policy> ParsePolicy(std::string_view text);
std::string PolicyNames();

}  // namespace varve::worker
