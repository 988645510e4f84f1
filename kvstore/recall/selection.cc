#include "kvstore/recall/selection.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "kvstore/base/parallel.h"
#include "kvstore/base/status.h"
#include "kvstore/page/select.h"
#include "kvstore/recall/reranking.h"

namespace varve::recall {
namespace {

absl::Status CheckLayerQuery(const page::Geometry& g, const LayerQuery& query) {
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
    if (query.heads[h].budget_pages == 0 && !query.heads[h].skip) {
      return absl::InvalidArgumentError(absl::StrCat(
          "budget_pages of layer ", query.layer, ", KV head ", h, " is 0, allowed: at least 1"));
    }
  }
  return absl::OkStatus();
}

uint32_t NumPages(const RowList& digests, const SelectParams& params) {
  return params.num_blocks == 0 ? digests.rows() : params.num_blocks;
}

// sinks and window may overlap or exceed the pages; widened, so that no sum wraps.
uint64_t PinnedCount(const SelectParams& params, uint32_t num_pages) {
  return std::min<uint64_t>(uint64_t{params.sinks} + params.window, num_pages);
}

absl::Status CheckHead(const LayerQuery& query, size_t h, uint64_t pinned, uint32_t num_blocks,
                       const SelectParams& params) {
  const HeadQuery& head = query.heads[h];
  if (head.budget_pages < pinned) {
    return absl::InvalidArgumentError(
        absl::StrCat("budget_pages of layer ", query.layer, ", KV head ", h, " is ",
                     head.budget_pages, ", allowed: at least the ", pinned,
                     " pages pinned by sinks ", params.sinks, " and window ", params.window));
  }
  for (size_t i = 0; i < head.resident.size(); ++i) {
    const uint32_t page = head.resident[i];
    if (page >= num_blocks || (i > 0 && page <= head.resident[i - 1])) {
      return absl::InvalidArgumentError(
          absl::StrCat("resident[", i, "] of layer ", query.layer, ", KV head ", h, " is ", page,
                       ", allowed: ascending page ids below ", num_blocks));
    }
  }
  return absl::OkStatus();
}

// Selected pages and explained scores go into one reply, and take 20 bytes each on the way there.
absl::Status CheckAnswer(uint64_t pages, uint64_t max_pages) {
  if (pages <= max_pages) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the budgets, candidates and explained scores of the request come to ", pages,
                   " pages, allowed: ", max_pages, " in one recall; ask for fewer layers at once"));
}

// ---- one (layer, KV head)

// Query heads are scored as many at a time as keep `raw` within this, at least one; it is what
// clients decide the size of.
constexpr size_t kMaxRawFloats = 4 << 20;

struct Scratch {
  std::vector<float> raw;     // [heads at a time][pages]
  std::vector<float> piece;   // [heads at a time][rows of one chunk]
  std::vector<float> scores;  // [pages]
  std::vector<uint32_t> selected;
  page::SelectScratch select;
  Reranker reranker;
  SelectTimings timings;

  explicit Scratch(const page::Geometry& geometry) : reranker(geometry) {}

  void FitScores(uint32_t heads, uint32_t pages) {
    raw.resize(std::max(raw.size(), size_t{heads} * pages));
    piece.resize(std::max(piece.size(), size_t{heads} * RowChunk::kMaxRows));
  }
  void Fit(uint32_t pages) {
    scores.resize(std::max<size_t>(scores.size(), pages));
    selected.resize(std::max<size_t>(selected.size(), pages));
  }
};

// raw[q][page] of `heads` query heads from `queries` on.
void ScoreSome(const ContextOptions& options, const RowList& digests, uint32_t head,
               const float* queries, uint32_t heads, uint32_t pages, Scratch& scratch) {
  const page::Geometry& g = options.geometry;
  digests.ForEachPiece(
      0, pages, [&](const RowChunk& chunk, uint32_t row, uint32_t rows, uint32_t done) {
        const size_t row_bytes = digests.format().head_bytes;
        const page::DigestMatrix matrix{.kind = options.digest_kind,
                                        .dtype = g.dtype,
                                        .head_dim = g.head_dim,
                                        .page_tokens = g.page_tokens,
                                        .rows = chunk.head(head) + row * row_bytes,
                                        .row_stride_bytes = row_bytes,
                                        .num_pages = rows};
        page::ScorePages(matrix, queries, heads, scratch.piece.data());
        for (uint32_t q = 0; q < heads; ++q) {
          std::memcpy(scratch.raw.data() + size_t{q} * pages + done,
                      scratch.piece.data() + size_t{q} * rows, rows * sizeof(float));
        }
      });
}

void ScoreHead(const ContextOptions& options, const RowList& digests, uint32_t head,
               const float* queries, page::ScoreMerge merge, uint32_t pages, Scratch& scratch) {
  const page::Geometry& g = options.geometry;
  const uint32_t group = g.group_size();
  const auto at_once = static_cast<uint32_t>(std::clamp<size_t>(kMaxRawFloats / pages, 1, group));
  scratch.FitScores(at_once, pages);
  for (uint32_t done = 0; done < group; done += at_once) {
    const uint32_t heads = std::min(at_once, group - done);
    ScoreSome(options, digests, head, queries + size_t{done} * g.head_dim, heads, pages, scratch);
    page::MergeSomeScores(merge, scratch.raw.data(), heads, group, done == 0, pages, g.head_dim,
                          scratch.scores.data());
  }
}

// The best pages by their digests, pinned ones among them.
std::span<const uint32_t> SelectByDigests(std::span<const uint32_t> pinned, uint32_t budget,
                                          uint32_t pages, Scratch& scratch) {
  const uint32_t count =
      page::SelectPages(std::span(scratch.scores).first(pages), pinned, std::min(budget, pages),
                        scratch.select, scratch.selected);
  return std::span(scratch.selected).first(count);
}

HeadSelection SelectionOf(std::span<const uint32_t> selected, const HeadQuery& head) {
  HeadSelection result;
  result.selected.assign(selected.begin(), selected.end());
  std::set_difference(selected.begin(), selected.end(), head.resident.begin(), head.resident.end(),
                      std::back_inserter(result.missing));
  return result;
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void MergeWanted(const RowList& blocks, const LayerQuery& query, LayerSelection& layer) {
  std::vector<uint32_t>& wanted = layer.wanted_pages;
  for (size_t h = 0; h < layer.heads.size(); ++h) {
    const std::vector<uint32_t>& missing = layer.heads[h].missing;
    const auto count = std::min<size_t>(missing.size(), query.heads[h].places);
    wanted.insert(wanted.end(), missing.begin(), missing.begin() + count);
  }
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  layer.block_hashes.reserve(wanted.size());
  for (uint32_t page : wanted) {
    layer.block_hashes.push_back(std::move(DecodeHashes(blocks, page, 1).front()));
  }
}

// One call of SelectFrom.
class Selection {
 public:
  Selection(const ContextOptions& options, const Context::RecallView& view,
            const SelectParams& params, std::span<const LayerQuery> layers,
            const SelectThreads& threads)
      : options_(options),
        view_(view),
        params_(params),
        layers_(layers),
        threads_(threads),
        results_(layers.size()),
        pinned_(layers.size()),
        scratches_(threads.threads, Scratch(options.geometry)) {
    for (size_t l = 0; l < layers.size(); ++l) {
      results_[l].layer = layers[l].layer;
      results_[l].heads.resize(heads());
      page::PinnedPages(Pages(l), params.sinks, params.window, pinned_[l]);
    }
  }

  std::vector<LayerSelection> Run(const ObjectSource& objects, SelectTimings* timings) {
    if (params_.rerank != page::Rerank::kNone) candidates_.resize(layers_.size() * heads());
    ForEachHead([this](uint32_t l, uint32_t h, Scratch& scratch) { ByDigests(l, h, scratch); });
    double finding_keys = 0;
    if (!candidates_.empty()) {
      const auto start = std::chrono::steady_clock::now();
      FindKeys(objects);
      finding_keys = SecondsSince(start);
      ForEachHead([this](uint32_t l, uint32_t h, Scratch& scratch) { ByKeys(l, h, scratch); });
    }
    for (size_t l = 0; l < layers_.size(); ++l) MergeWanted(view_.blocks, layers_[l], results_[l]);
    if (timings != nullptr) {
      *timings = Timings();
      timings->rerank_seconds += finding_keys;
    }
    return std::move(results_);
  }

 private:
  uint32_t heads() const { return options_.geometry.num_kv_heads; }
  uint32_t Pages(size_t l) const { return NumPages(view_.layers[l], params_); }
  const float* Queries(uint32_t l, uint32_t h) const {
    const page::Geometry& g = options_.geometry;
    return layers_[l].queries.data() + size_t{h} * g.group_size() * g.head_dim;
  }

  template <typename Fn>
  void ForEachHead(const Fn& fn) {
    const auto one = [&](uint32_t piece, uint32_t worker) {
      fn(piece / heads(), piece % heads(), scratches_[worker]);
    };
    base::ParallelFor(threads_.executor, threads_.threads,
                      static_cast<uint32_t>(layers_.size() * heads()), one);
  }

  void ByDigests(uint32_t l, uint32_t h, Scratch& scratch) {
    const HeadQuery& head = layers_[l].heads[h];
    if (head.skip) return;
    const uint32_t pages = Pages(l);
    scratch.Fit(pages);
    const auto start = std::chrono::steady_clock::now();
    // A budget for everything needs no scores.
    if (head.budget_pages < pages || params_.explain) {
      ScoreHead(options_, view_.layers[l], h, Queries(l, h), params_.merge, pages, scratch);
    }
    scratch.timings.score_seconds += SecondsSince(start);
    const auto scored = std::chrono::steady_clock::now();
    const std::span<const float> scores = std::span(scratch.scores).first(pages);
    HeadSelection& result = results_[l].heads[h];
    if (!candidates_.empty() && head.budget_pages < pages) {
      const auto chosen = SelectByDigests(
          pinned_[l], page::CandidatePages(head.budget_pages, params_.multiplier, pages), pages,
          scratch);
      Candidates& candidates = candidates_[l * heads() + h];
      candidates.pages.assign(chosen.begin(), chosen.end());
      candidates.scores.reserve(chosen.size());
      for (const uint32_t page : chosen) candidates.scores.push_back(scores[page]);
    } else {
      result = SelectionOf(SelectByDigests(pinned_[l], head.budget_pages, pages, scratch), head);
    }
    if (params_.explain) result.scores.assign(scores.begin(), scores.end());
    scratch.timings.select_seconds += SecondsSince(scored);
  }

  // Once for all heads of a layer, as an object has the keys of all.
  void FindKeys(const ObjectSource& objects) {
    std::vector<uint32_t> pages;
    for (size_t l = 0; l < layers_.size(); ++l) {
      pages.clear();
      for (uint32_t h = 0; h < heads(); ++h) {
        const std::vector<uint32_t>& more = candidates_[l * heads() + h].pages;
        pages.insert(pages.end(), more.begin(), more.end());
      }
      std::sort(pages.begin(), pages.end());
      pages.erase(std::unique(pages.begin(), pages.end()), pages.end());
      keys_.emplace_back(options_.geometry).Pin(objects, view_.blocks, layers_[l].layer, pages);
    }
  }

  void ByKeys(uint32_t l, uint32_t h, Scratch& scratch) {
    const Candidates& candidates = candidates_[l * heads() + h];
    if (candidates.pages.empty()) return;  // the budget is for everything
    const auto start = std::chrono::steady_clock::now();
    const HeadQuery& head = layers_[l].heads[h];
    HeadSelection& result = results_[l].heads[h];
    std::vector<float> scores = std::move(result.scores);
    result = SelectionOf(scratch.reranker.Select(candidates, keys_[l], h, Queries(l, h), pinned_[l],
                                                 head.budget_pages),
                         head);
    result.scores = std::move(scores);
    scratch.timings.rerank_seconds += SecondsSince(start);
  }

  SelectTimings Timings() const {
    SelectTimings timings;
    for (const Scratch& s : scratches_) {
      timings.score_seconds = std::max(timings.score_seconds, s.timings.score_seconds);
      timings.select_seconds = std::max(timings.select_seconds, s.timings.select_seconds);
      timings.rerank_seconds = std::max(timings.rerank_seconds, s.timings.rerank_seconds);
      timings.reranked_pages += s.reranker.exact_pages();
      timings.estimated_pages += s.reranker.estimated_pages();
    }
    return timings;
  }

  const ContextOptions& options_;
  const Context::RecallView& view_;
  const SelectParams& params_;
  const std::span<const LayerQuery> layers_;
  const SelectThreads& threads_;
  std::vector<LayerSelection> results_;
  std::vector<std::vector<uint32_t>> pinned_;  // [layer of the request]
  std::vector<Candidates> candidates_;         // [layer][KV head]; empty without second stage
  std::vector<CandidateKeys> keys_;            // [layer]
  std::vector<Scratch> scratches_;             // [thread]
};

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
        absl::StrCat("rerank is ", static_cast<uint32_t>(params.rerank), ", allowed: 0..1 (",
                     base::Sv(page::RerankNames()), ")"));
  }
  if (!(params.multiplier >= page::kMinMultiplier && params.multiplier <= page::kMaxMultiplier)) {
    return absl::InvalidArgumentError(absl::StrCat("multiplier is ", params.multiplier,
                                                   ", allowed: ", page::kMinMultiplier, "..",
                                                   page::kMaxMultiplier));
  }
  std::vector<bool> asked(options.geometry.num_layers);
  for (const LayerQuery& query : layers) {
    VARVE_RETURN_IF_ERROR(CheckLayerQuery(options.geometry, query));
    if (asked[query.layer]) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", query.layer, " is named twice, allowed: once"));
    }
    asked[query.layer] = true;
  }
  return absl::OkStatus();
}

absl::Status CheckCandidates(const Context::RecallView& view, const SelectParams& params,
                             std::span<const LayerQuery> layers, uint64_t max_answer_pages) {
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
    for (size_t h = 0; h < layers[l].heads.size(); ++h) {
      if (layers[l].heads[h].skip) continue;
      VARVE_RETURN_IF_ERROR(CheckHead(layers[l], h, pinned, num_blocks, params));
      const uint32_t budget = layers[l].heads[h].budget_pages;
      answer += params.rerank == page::Rerank::kNone
                    ? std::min(budget, pages)
                    : page::CandidatePages(budget, params.multiplier, pages);
      answer += params.explain ? pages : 0;
    }
  }
  return CheckAnswer(answer, max_answer_pages);
}

std::vector<LayerSelection> SelectFrom(const ContextOptions& options,
                                       const Context::RecallView& view, const SelectParams& params,
                                       std::span<const LayerQuery> layers,
                                       const ObjectSource& objects, const SelectThreads& threads,
                                       SelectTimings* timings) {
  return Selection(options, view, params, layers, threads).Run(objects, timings);
}

}  // namespace varve::recall
