// What CheckQueries and CheckCandidates refuse.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/page/select.h"
#include "kvstore/recall/candidates.h"
#include "kvstore/recall/selection.h"

namespace varve::recall {
namespace {

absl::Status CheckAdaptiveHead(const LayerQuery& query, size_t h, const SelectParams& params) {
  const HeadQuery& head = query.heads[h];
  const auto refused = [&](absl::string_view what, uint32_t pages, absl::string_view allowed) {
    return absl::InvalidArgumentError(absl::StrCat(what, " of layer ", query.layer, ", KV head ", h,
                                                   " is ", pages, ", allowed: ", allowed));
  };
  if (params.target > 0 && !head.outliers.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("outliers of layer ", query.layer, ", KV head ",
                                                   h, " with a target, allowed: one of them"));
  }
  if (params.target == 0) {
    if (head.floor_pages != 0) return refused("floor_pages", head.floor_pages, "0 without target");
    if (head.ceiling_pages != 0) {
      return refused("ceiling_pages", head.ceiling_pages, "0 without target");
    }
    return absl::OkStatus();
  }
  if (head.floor_pages > head.budget_pages) {
    return refused("floor_pages", head.floor_pages,
                   absl::StrCat("0..", head.budget_pages, ", budget_pages"));
  }
  if (head.ceiling_pages != 0 && head.ceiling_pages < head.budget_pages) {
    return refused("ceiling_pages", head.ceiling_pages,
                   absl::StrCat("0, or at least ", head.budget_pages, ", budget_pages"));
  }
  return absl::OkStatus();
}

absl::Status CheckTarget(const SelectParams& params) {
  if (!(params.target >= 0 && params.target <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("target is ", params.target, ", allowed: 0..1"));
  }
  if (params.target > 0 && params.rerank == page::Rerank::kNone &&
      params.merge != page::ScoreMerge::kSoftmaxMean) {
    return absl::InvalidArgumentError(absl::StrCat("target with merge ",
                                                   base::Sv(page::ScoreMergeName(params.merge)),
                                                   ", allowed: softmax_mean, or a second stage"));
  }
  return absl::OkStatus();
}

absl::Status CheckHysteresis(const SelectParams& params) {
  if (!(params.hysteresis >= 0 && params.hysteresis <= page::kMaxHysteresis)) {
    return absl::InvalidArgumentError(
        absl::StrCat("hysteresis is ", params.hysteresis, ", allowed: 0..", page::kMaxHysteresis));
  }
  if (params.hysteresis == 0) return absl::OkStatus();
  if (params.target > 0) {
    return absl::InvalidArgumentError("hysteresis with a target, allowed: one of them");
  }
  if (params.rerank == page::Rerank::kNone && !page::ScoresAreShares(params.merge)) {
    return absl::InvalidArgumentError(
        absl::StrCat("hysteresis with merge ", base::Sv(page::ScoreMergeName(params.merge)),
                     ", allowed: softmax_mean, softmax_max, or a second stage"));
  }
  return absl::OkStatus();
}

// The least that its heads may have must fit, and a step of all layers has no more pages than there
// are.
absl::Status CheckTotal(const page::Geometry& g, const LayerQuery& query, uint64_t pinned,
                        uint64_t pages, const SelectParams& params) {
  if (query.total_pages == 0) return absl::OkStatus();
  uint64_t least = 0, most = 0;
  for (const HeadQuery& head : query.heads) {
    if (head.skip) continue;
    least += std::max<uint64_t>(head.floor_pages, pinned);
    most += g.num_layers * pages;
  }
  if (params.target > 0 && query.total_pages >= least && query.total_pages <= most) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "total_pages of layer ", query.layer, " is ", query.total_pages,
      params.target > 0 ? absl::StrCat(", allowed: 0, or at least the ", least,
                                       " pages of all floors and pinned pages and at most the ",
                                       most, " of these heads in all layers")
                        : ", allowed: 0 without target"));
}

absl::Status CheckLayerQuery(const page::Geometry& g, const LayerQuery& query,
                             const SelectParams& params) {
  if (query.layer >= g.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer is ", query.layer, ", allowed: 0..", g.num_layers - 1));
  }
  const size_t floats = size_t{g.num_query_heads} * g.head_dim;
  if (query.queries.size() != floats) {
    return absl::InvalidArgumentError(absl::StrCat(
        "queries of layer ", query.layer, " has ", query.queries.size(), " floats, allowed: ",
        floats, " (", g.num_query_heads, " query heads of ", g.head_dim, ")"));
  }
  for (size_t i = 0; i < floats; ++i) {
    if (!std::isfinite(query.queries[i])) {
      return absl::InvalidArgumentError(absl::StrCat("queries of layer ", query.layer, ": value ",
                                                     i, " (query head ", i / g.head_dim,
                                                     ") is NaN or infinite, allowed: finite"));
    }
  }
  if (query.heads.size() != g.num_kv_heads) {
    return absl::InvalidArgumentError(
        absl::StrCat("heads of layer ", query.layer, " has ", query.heads.size(),
                     " entries, allowed: ", g.num_kv_heads, ", one per KV head"));
  }
  for (size_t h = 0; h < query.heads.size(); ++h) {
    if (query.heads[h].skip) continue;
    if (query.heads[h].budget_pages == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "budget_pages of layer ", query.layer, ", KV head ", h, " is 0, allowed: at least 1"));
    }
    VARVE_RETURN_IF_ERROR(CheckAdaptiveHead(query, h, params));
  }
  return absl::OkStatus();
}

// sinks and window may overlap or exceed the pages; widened, so that no sum wraps.
uint64_t PinnedCount(const SelectParams& params, uint32_t num_pages) {
  return std::min<uint64_t>(uint64_t{params.sinks} + params.window, num_pages);
}

// Of a list of pages: "resident" or "outliers".
absl::Status CheckPages(absl::string_view list, std::span<const uint32_t> pages,
                        const LayerQuery& query, size_t h, uint32_t end) {
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i] < end && (i == 0 || pages[i] > pages[i - 1])) continue;
    return absl::InvalidArgumentError(absl::StrCat(list, "[", i, "] of layer ", query.layer,
                                                   ", KV head ", h, " is ", pages[i],
                                                   ", allowed: ascending page ids below ", end));
  }
  return absl::OkStatus();
}

absl::Status CheckHead(const LayerQuery& query, size_t h, uint64_t pinned, uint32_t num_blocks,
                       uint32_t candidates, const SelectParams& params) {
  const HeadQuery& head = query.heads[h];
  if (head.budget_pages < pinned) {
    return absl::InvalidArgumentError(
        absl::StrCat("budget_pages of layer ", query.layer, ", KV head ", h, " is ",
                     head.budget_pages, ", allowed: at least the ", pinned,
                     " pages pinned by sinks ", params.sinks, " and window ", params.window));
  }
  VARVE_RETURN_IF_ERROR(CheckPages("resident", head.resident, query, h, num_blocks));
  return CheckPages("outliers", head.outliers, query, h, candidates);
}

// Selected pages and explained scores go into one reply, and take 20 bytes each on the way there.
absl::Status CheckAnswer(uint64_t pages, uint64_t max_pages) {
  if (pages <= max_pages) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the budgets, candidates and scores to answer of the request come to ", pages,
                   " pages, allowed: ", max_pages, " in one recall; ask for fewer layers at once"));
}

}  // namespace

absl::Status CheckQueries(const ContextOptions& options, const SelectParams& params,
                          std::span<const LayerQuery> layers) {
  if (layers.empty() || layers.size() > options.geometry.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layers has ", layers.size(), " entries, allowed: 1..", options.geometry.num_layers));
  }
  if (page::ScoreMergeName(params.merge) == "?") {
    return absl::InvalidArgumentError(absl::StrCat("merge is ", static_cast<uint32_t>(params.merge),
                                                   ", allowed: 1..4 (",
                                                   base::Sv(page::ScoreMergeNames()), ")"));
  }
  if (page::RerankName(params.rerank) == "?") {
    return absl::InvalidArgumentError(
        absl::StrCat("rerank is ", static_cast<uint32_t>(params.rerank), ", allowed: 0..2 (",
                     base::Sv(page::RerankNames()), ")"));
  }
  if (params.rerank == page::Rerank::kSketch && !page::HasSketch(options.digest_kind)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rerank is sketch, but digests of kind ", base::Sv(page::Info(options.digest_kind).name),
        " have no sketch, allowed: contexts of kind ", base::Sv(page::SketchKindNames())));
  }
  if (!(params.multiplier >= page::kMinMultiplier && params.multiplier <= page::kMaxMultiplier)) {
    return absl::InvalidArgumentError(absl::StrCat("multiplier is ", params.multiplier,
                                                   ", allowed: ", page::kMinMultiplier, "..",
                                                   page::kMaxMultiplier));
  }
  VARVE_RETURN_IF_ERROR(CheckTarget(params));
  VARVE_RETURN_IF_ERROR(CheckHysteresis(params));
  std::vector<bool> asked(options.geometry.num_layers);
  for (const LayerQuery& query : layers) {
    VARVE_RETURN_IF_ERROR(CheckLayerQuery(options.geometry, query, params));
    if (asked[query.layer]) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", query.layer, " is named twice, allowed: once"));
    }
    asked[query.layer] = true;
  }
  return absl::OkStatus();
}

absl::Status CheckCandidates(const page::Geometry& geometry, const Context::RecallView& view,
                             const SelectParams& params, std::span<const LayerQuery> layers,
                             uint64_t max_answer_pages) {
  const uint32_t num_blocks = view.blocks.rows();
  uint64_t answer = 0;
  if (params.num_blocks > num_blocks) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_blocks is ", params.num_blocks, ", allowed: 0..", num_blocks));
  }
  for (size_t l = 0; l < layers.size(); ++l) {
    const uint32_t digests = view.layers[l].rows();
    const uint32_t pages = NumPages(view.layers[l], params);
    if (pages == 0 || pages > digests) {
      return absl::FailedPreconditionError(
          absl::StrCat("layer ", layers[l].layer, " has digests of ", digests, " of ", num_blocks,
                       " blocks, too few for ", std::max(pages, 1u), " candidate pages"));
    }
    const uint64_t pinned = PinnedCount(params, pages);
    VARVE_RETURN_IF_ERROR(CheckTotal(geometry, layers[l], pinned, pages, params));
    for (size_t h = 0; h < layers[l].heads.size(); ++h) {
      if (layers[l].heads[h].skip) continue;
      VARVE_RETURN_IF_ERROR(CheckHead(layers[l], h, pinned, num_blocks, pages, params));
      answer += CandidatesOf(layers[l].heads[h], params, pages);
      answer += layers[l].heads[h].outliers.size();
      answer += params.explain ? pages : 0;
      answer += params.score_hot ? layers[l].heads[h].resident.size() : 0;
    }
  }
  return CheckAnswer(answer, max_answer_pages);
}

}  // namespace varve::recall
