#include "kvstore/recall/selection.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <iterator>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kvstore/base/parallel.h"
#include "kvstore/base/status.h"
#include "kvstore/page/mass.h"
#include "kvstore/page/select.h"
#include "kvstore/recall/candidates.h"
#include "kvstore/recall/reranking.h"

namespace varve::recall {
namespace {

// ---- one (layer, KV head)

// Query heads are scored as many at a time as keep `raw` within this, at least one; it is what
// clients decide the size of.
constexpr size_t kMaxRawFloats = 4 << 20;

constexpr float kLowest = -std::numeric_limits<float>::infinity();

struct Scratch {
  std::vector<float> raw;        // [heads at a time][pages]
  std::vector<float> piece;      // [heads at a time][rows of one chunk]
  std::vector<float> bounds;     // raw of all heads, for a certificate; empty: no bounds
  std::vector<float> scores;     // [pages]
  std::vector<uint32_t> pinned;  // with the outliers
  std::vector<uint32_t> selected;
  page::SelectScratch select;
  Reranker reranker;
  SelectTimings timings;

  explicit Scratch(const ContextOptions& options)
      : reranker(options.geometry, options.digest_kind) {}

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
               const float* queries, std::span<const uint32_t> outliers, const SelectParams& params,
               uint32_t pages, Scratch& scratch) {
  const page::Geometry& g = options.geometry;
  const uint32_t group = g.group_size();
  const bool certify = params.certify && page::Info(options.digest_kind).is_upper_bound;
  const auto at_once = static_cast<uint32_t>(std::clamp<size_t>(kMaxRawFloats / pages, 1, group));
  scratch.FitScores(at_once, pages);
  scratch.bounds.clear();
  for (uint32_t done = 0; done < group; done += at_once) {
    const uint32_t heads = std::min(at_once, group - done);
    ScoreSome(options, digests, head, queries + size_t{done} * g.head_dim, heads, pages, scratch);
    for (uint32_t q = 0; q < heads; ++q) {
      for (const uint32_t page : outliers) scratch.raw[size_t{q} * pages + page] = kLowest;
    }
    if (certify && heads == group) {
      scratch.bounds.assign(scratch.raw.begin(), scratch.raw.begin() + size_t{group} * pages);
    }
    page::MergeSomeScores(params.merge, scratch.raw.data(), heads, group, done == 0, pages,
                          g.head_dim, scratch.scores.data());
  }
}

// log of what the unselected pages may have, per query head; empty without bounds.
std::vector<float> LogDropped(const page::Geometry& g, std::span<const uint32_t> selected,
                              uint32_t pages, const Scratch& scratch) {
  // Nothing was scored, and nothing is dropped.
  if (selected.size() == pages) {
    return std::vector<float>(g.group_size(), kLowest);
  }
  std::vector<float> logs;
  for (size_t at = 0; at < scratch.bounds.size(); at += pages) {
    logs.push_back(page::LogDroppedBound(std::span(scratch.bounds).subspan(at, pages), selected,
                                         AttentionScale(g), g.page_tokens));
  }
  return logs;
}

// The bounds of the candidates, and what all others may have.
void KeepBounds(const page::Geometry& g, uint32_t pages, const Scratch& scratch,
                Candidates& candidates) {
  candidates.log_rest = LogDropped(g, candidates.pages, pages, scratch);
  for (size_t at = 0; at < scratch.bounds.size(); at += pages) {
    for (const uint32_t page : candidates.pages) {
      candidates.bounds.push_back(scratch.bounds[at + page]);
    }
  }
}

// The best pages by their digests, pinned ones among them; so many more for those beside the
// budget.
std::span<const uint32_t> SelectByDigests(uint32_t budget, uint32_t beside, uint32_t pages,
                                          Scratch& scratch) {
  const uint32_t most = std::min(std::min(budget, pages) + beside, pages);
  const uint32_t count = page::SelectPages(std::span(scratch.scores).first(pages), scratch.pinned,
                                           most, scratch.select, scratch.selected);
  return std::span(scratch.selected).first(count);
}

// Those of `some` pages by the scores of all.
std::vector<float> ScoresOf(std::span<const uint32_t> some, std::span<const float> scores) {
  std::vector<float> of(some.size());
  for (size_t i = 0; i < some.size(); ++i) of[i] = some[i] < scores.size() ? scores[some[i]] : 0;
  return of;
}

void SetSelected(std::span<const uint32_t> selected, const HeadQuery& head, HeadSelection& result) {
  result.selected.assign(selected.begin(), selected.end());
  std::set_difference(selected.begin(), selected.end(), head.resident.begin(), head.resident.end(),
                      std::back_inserter(result.missing));
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
        scratches_(threads.threads, Scratch(options)) {
    for (size_t l = 0; l < layers.size(); ++l) {
      results_[l].layer = layers[l].layer;
      results_[l].heads.resize(heads());
      page::PinnedPages(Pages(l), params.sinks, params.window, pinned_[l]);
    }
  }

  std::vector<LayerSelection> Run(const ObjectSource& objects, SelectTimings* timings) {
    const bool reranks = params_.rerank != page::Rerank::kNone;
    if (reranks || adapts()) candidates_.resize(layers_.size() * heads());
    ForEachHead([this](uint32_t l, uint32_t h, Scratch& scratch) { ByDigests(l, h, scratch); });
    double serial = 0;
    if (reranks) {
      const auto start = std::chrono::steady_clock::now();
      if (params_.rerank == page::Rerank::kExact) FindKeys(objects);
      serial = SecondsSince(start);
      ForEachHead([this](uint32_t l, uint32_t h, Scratch& scratch) { ByMass(l, h, scratch); });
    }
    if (adapts()) {
      for (size_t l = 0; l < layers_.size(); ++l) FitBudgets(l);
      ForEachHead([this](uint32_t l, uint32_t h, Scratch& scratch) { ByCurve(l, h, scratch); });
    }
    for (size_t l = 0; l < layers_.size(); ++l) MergeWanted(view_.blocks, layers_[l], results_[l]);
    if (timings != nullptr) {
      *timings = Timings();
      timings->rerank_seconds += serial;
    }
    return std::move(results_);
  }

 private:
  bool adapts() const { return params_.target > 0; }
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
    scratch.pinned.clear();
    std::set_union(pinned_[l].begin(), pinned_[l].end(), head.outliers.begin(), head.outliers.end(),
                   std::back_inserter(scratch.pinned));
    const auto beside = static_cast<uint32_t>(scratch.pinned.size() - pinned_[l].size());
    // A budget for everything needs no scores.
    const bool chooses = uint64_t{head.budget_pages} + beside < pages || adapts();
    if (chooses || params_.explain) {
      ScoreHead(options_, view_.layers[l], h, Queries(l, h), head.outliers, params_, pages,
                scratch);
    }
    scratch.timings.score_seconds += SecondsSince(start);
    const auto scored = std::chrono::steady_clock::now();
    const std::span<const float> scores = std::span(scratch.scores).first(pages);
    HeadSelection& result = results_[l].heads[h];
    if (params_.explain) result.scores.assign(scores.begin(), scores.end());
    const bool score_hot = params_.score_hot && chooses;
    if (score_hot) result.resident_scores = ScoresOf(head.resident, scores);
    if (!candidates_.empty() && chooses) {
      const auto chosen =
          SelectByDigests(CandidatesOf(head, params_, pages), beside, pages, scratch);
      Candidates& candidates = candidates_[l * heads() + h];
      candidates.pages.assign(chosen.begin(), chosen.end());
      for (const uint32_t page : chosen) candidates.scores.push_back(scores[page]);
      for (const uint32_t page : scratch.pinned) {
        candidates.pinned.push_back(candidates.IndexOf(page));
      }
      if (params_.certify) KeepBounds(options_.geometry, pages, scratch, candidates);
      if (adapts()) {
        const double all = std::accumulate(scores.begin(), scores.end(), 0.0);
        MakeCurve(head, pages, all, candidates);
      }
    } else {
      if (params_.hysteresis > 0 && chooses) {
        page::FavourResidents(head.resident, params_.hysteresis,
                              std::span(scratch.scores).first(pages));
      }
      const auto chosen = SelectByDigests(head.budget_pages, beside, pages, scratch);
      SetSelected(chosen, head, result);
      if (score_hot) result.missing_scores = ScoresOf(result.missing, scores);
      if (params_.certify) {
        result.dropped.log_bound = LogDropped(options_.geometry, chosen, pages, scratch);
      }
    }
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

  void ByMass(uint32_t l, uint32_t h, Scratch& scratch) {
    Candidates& candidates = candidates_[l * heads() + h];
    if (candidates.pages.empty()) return;  // the budget is for everything
    const auto start = std::chrono::steady_clock::now();
    const HeadQuery& head = layers_[l].heads[h];
    scratch.reranker.Rank(candidates, keys_.empty() ? nullptr : &keys_[l], view_.layers[l], h,
                          Queries(l, h), params_.certify);
    if (params_.score_hot) {
      results_[l].heads[h].resident_scores = candidates.ScoresOf(head.resident);
    }
    if (adapts()) {
      MakeCurve(head, Pages(l), 0, candidates);
    } else {
      if (params_.hysteresis > 0) {
        page::FavourResidents(candidates.IndexesOf(head.resident), params_.hysteresis,
                              candidates.scores);
      }
      const auto count = static_cast<uint32_t>(candidates.pages.size());
      const auto beside = static_cast<uint32_t>(candidates.pinned.size() - pinned_[l].size());
      std::vector<uint32_t> selected(std::min(count, head.budget_pages + beside));
      const auto budget = static_cast<uint32_t>(selected.size());
      selected.resize(page::SelectPages(candidates.scores, candidates.pinned, budget,
                                        scratch.select, selected));
      Take(l, h, selected);
    }
    scratch.timings.rerank_seconds += SecondsSince(start);
  }

  // all: of the scores of all pages; 0: of those of the candidates.
  void MakeCurve(const HeadQuery& head, uint32_t pages, double all, Candidates& candidates) const {
    page::MakeMassCurve(candidates.scores, candidates.pinned, LimitsOf(head, params_, pages),
                        candidates.curve, all);
  }

  // A layer without a total of its own may have what those before it have left.
  void FitBudgets(size_t l) {
    uint64_t total = layers_[l].total_pages;
    if (total == 0) total = l == 0 ? params_.left_pages : results_[l - 1].left_pages;
    std::vector<page::MassCurve*> curves;
    for (uint32_t h = 0; h < heads(); ++h) {
      if (layers_[l].heads[h].skip) continue;
      curves.push_back(&candidates_[l * heads() + h].curve);
      if (layers_[l].total_pages == 0) total += layers_[l].heads[h].budget_pages;
    }
    const uint64_t selected = page::FitTotal(curves, total);
    results_[l].left_pages = total - std::min(selected, total);
  }

  void ByCurve(uint32_t l, uint32_t h, Scratch& scratch) {
    if (layers_[l].heads[h].skip) return;
    const auto start = std::chrono::steady_clock::now();
    Take(l, h, page::SelectedPages(candidates_[l * heads() + h].curve));
    scratch.timings.select_seconds += SecondsSince(start);
  }

  // selected: indexes of candidates.
  void Take(uint32_t l, uint32_t h, std::vector<uint32_t> selected) {
    const Candidates& candidates = candidates_[l * heads() + h];
    HeadSelection& result = results_[l].heads[h];
    if (params_.certify) {
      const bool by_keys = params_.rerank != page::Rerank::kNone;
      result.dropped = candidates.Dropped(options_.geometry, selected, by_keys);
    }
    for (uint32_t& page : selected) page = candidates.pages[page];
    SetSelected(selected, layers_[l].heads[h], result);
    if (params_.score_hot) result.missing_scores = candidates.ScoresOf(result.missing);
  }

  SelectTimings Timings() const {
    SelectTimings timings;
    for (const Scratch& s : scratches_) {
      timings.score_seconds = std::max(timings.score_seconds, s.timings.score_seconds);
      timings.select_seconds = std::max(timings.select_seconds, s.timings.select_seconds);
      timings.rerank_seconds = std::max(timings.rerank_seconds, s.timings.rerank_seconds);
      timings.reranked_pages += s.reranker.exact_pages();
      timings.sketched_pages += s.reranker.sketched_pages();
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
  std::vector<std::vector<uint32_t>> pinned_;  // [layer of the request], by position
  std::vector<Candidates> candidates_;         // [layer][KV head]; empty without second stage
  std::deque<CandidateKeys> keys_;             // [layer]; empty unless keys rank
  std::vector<Scratch> scratches_;             // [thread]
};

}  // namespace

std::vector<LayerSelection> SelectFrom(const ContextOptions& options,
                                       const Context::RecallView& view, const SelectParams& params,
                                       std::span<const LayerQuery> layers,
                                       const ObjectSource& objects, const SelectThreads& threads,
                                       SelectTimings* timings) {
  return Selection(options, view, params, layers, threads).Run(objects, timings);
}

}  // namespace varve::recall
