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
    if (query.heads[h].budget_pages == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "budget_pages of layer ", query.layer, ", KV head ", h, " is 0, allowed: at least 1"));
    }
  }
  return absl::OkStatus();
}

uint32_t Candidates(const RowList& digests, const SelectParams& params) {
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
      absl::StrCat("the budgets and explained scores of the request come to ", pages,
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
  SelectTimings timings;

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
        const page::DigestMatrix matrix{options.digest_kind, g.dtype,
                                        g.head_dim,          chunk.head(head) + row * row_bytes,
                                        row_bytes,           rows};
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

HeadSelection SelectHead(const HeadQuery& head, std::span<const uint32_t> pinned, uint32_t pages,
                         Scratch& scratch) {
  HeadSelection result;
  const uint32_t count =
      page::SelectPages(std::span(scratch.scores).first(pages), pinned,
                        std::min(head.budget_pages, pages), scratch.select, scratch.selected);
  result.selected.assign(scratch.selected.begin(), scratch.selected.begin() + count);
  std::set_difference(result.selected.begin(), result.selected.end(), head.resident.begin(),
                      head.resident.end(), std::back_inserter(result.missing));
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
    const uint32_t pages = Candidates(view.layers[l], params);
    if (pages == 0 || pages > digests) {
      return absl::FailedPreconditionError(
          absl::StrCat("layer ", layers[l].layer, " has digests of ", digests, " of ", num_blocks,
                       " blocks, too few for ", std::max(pages, 1u), " candidate pages"));
    }
    const uint64_t pinned = PinnedCount(params, pages);
    for (size_t h = 0; h < layers[l].heads.size(); ++h) {
      VARVE_RETURN_IF_ERROR(CheckHead(layers[l], h, pinned, num_blocks, params));
      answer += std::min(layers[l].heads[h].budget_pages, pages) + (params.explain ? pages : 0);
    }
  }
  return CheckAnswer(answer, max_answer_pages);
}

std::vector<LayerSelection> SelectFrom(const ContextOptions& options,
                                       const Context::RecallView& view, const SelectParams& params,
                                       std::span<const LayerQuery> layers,
                                       const SelectThreads& threads, SelectTimings* timings) {
  const page::Geometry& g = options.geometry;
  std::vector<LayerSelection> results(layers.size());
  std::vector<std::vector<uint32_t>> pinned(layers.size());
  for (size_t l = 0; l < layers.size(); ++l) {
    results[l].layer = layers[l].layer;
    results[l].heads.resize(g.num_kv_heads);
    page::PinnedPages(Candidates(view.layers[l], params), params.sinks, params.window, pinned[l]);
  }
  std::vector<Scratch> scratches(threads.threads);
  const auto one = [&](uint32_t piece, uint32_t worker) {
    const uint32_t l = piece / g.num_kv_heads;
    const uint32_t h = piece % g.num_kv_heads;
    const HeadQuery& head = layers[l].heads[h];
    const uint32_t pages = Candidates(view.layers[l], params);
    Scratch& scratch = scratches[worker];
    scratch.Fit(pages);
    const auto start = std::chrono::steady_clock::now();
    // A budget for everything needs no scores.
    if (head.budget_pages < pages || params.explain) {
      const float* queries = layers[l].queries.data() + size_t{h} * g.group_size() * g.head_dim;
      ScoreHead(options, view.layers[l], h, queries, params.merge, pages, scratch);
    }
    scratch.timings.score_seconds += SecondsSince(start);
    const auto scored = std::chrono::steady_clock::now();
    HeadSelection& result = results[l].heads[h];
    result = SelectHead(head, pinned[l], pages, scratch);
    if (params.explain) {
      result.scores.assign(scratch.scores.begin(), scratch.scores.begin() + pages);
    }
    scratch.timings.select_seconds += SecondsSince(scored);
  };
  const auto pieces = static_cast<uint32_t>(layers.size() * g.num_kv_heads);
  base::ParallelFor(threads.executor, threads.threads, pieces, one);

  for (size_t l = 0; l < layers.size(); ++l) MergeWanted(view.blocks, layers[l], results[l]);
  if (timings != nullptr) {
    *timings = SelectTimings{};
    for (const Scratch& s : scratches) {
      timings->score_seconds = std::max(timings->score_seconds, s.timings.score_seconds);
      timings->select_seconds = std::max(timings->select_seconds, s.timings.select_seconds);
    }
  }
  return results;
}

}  // namespace varve::recall
