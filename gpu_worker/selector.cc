#include "gpu_worker/selector.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <limits>
#include <numeric>

#include "gpu_worker/attention.h"
#include "kvstore/page/mass.h"

namespace varve::worker {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// selected = [0, count), reusing what is there.
void SelectAll(uint32_t count, std::vector<uint32_t>& selected) {
  const bool is_prefix = selected.empty() || selected.back() == selected.size() - 1;
  if (is_prefix && selected.size() == count) return;
  selected.resize(count);
  std::iota(selected.begin(), selected.end(), 0u);
}

double Seconds(std::chrono::steady_clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

// Pages that exist nowhere are not attended to.
void LeaveOutLost(HeadWork& work) {
  const LayerCache& cache = *work.cache;
  if (cache.lost.empty()) return;
  std::erase_if(work.selected(), [&](uint32_t page) { return cache.IsLost(work.head, page); });
}

}  // namespace

SelectTimes Busiest(std::span<const SelectTimes> by_thread) {
  return *std::max_element(
      by_thread.begin(), by_thread.end(), [](const SelectTimes& a, const SelectTimes& b) {
        return a.score_seconds + a.select_seconds < b.score_seconds + b.select_seconds;
      });
}

bool Selector::SelectWithoutScores(HeadWork& work) {
  const Policy& policy = work.sequence->policy();
  const uint32_t budget = work.sequence->budget_pages();
  const size_t outliers = work.sequence->Outliers(work.layer, work.head).size();
  work.log_dropped_bound.clear();
  work.log_dropped_estimate.clear();
  if (policy.kind == PolicyKind::kFull || budget + outliers >= work.candidates) {
    SelectAll(work.candidates, work.selected());
    LeaveOutLost(work);
    if (work.selected().size() == work.candidates) {
      work.log_dropped_bound.assign(geometry_.group_size(), kLowest);
    }
    return true;
  }
  if (policy.kind == PolicyKind::kStreaming) {
    const uint32_t recent = budget > policy.sinks ? budget - policy.sinks : 0;
    page::PinnedPages(work.candidates, std::min(policy.sinks, budget), recent, work.selected());
    LeaveOutLost(work);
    return true;
  }
  return false;
}

void Selector::SelectByDigests(HeadWork& work, SelectTimes& times) {
  using Clock = std::chrono::steady_clock;
  work.log_dropped_bound.clear();
  work.log_dropped_estimate.clear();
  const Policy& policy = work.sequence->policy();
  const uint32_t n = work.candidates;
  const uint32_t group = geometry_.group_size();
  raw_.resize(std::max(raw_.size(), size_t{group} * n));
  scores_.resize(std::max(scores_.size(), size_t{n}));
  const auto begin = Clock::now();
  page::DigestMatrix digests = work.cache->digests.Matrix(work.head);
  digests.num_pages = n;
  page::ScorePages(digests, work.q, group, raw_.data());
  const std::span<const uint32_t> outliers = work.sequence->Outliers(work.layer, work.head);
  for (uint32_t g = 0; g < group; ++g) {
    for (const uint32_t page : outliers) raw_[size_t{g} * n + page] = kLowest;
  }
  bounds_.clear();
  // Of pages that are lost there is no telling, nor what rebuilt keys would have been.
  if (page::Info(digests.kind).is_upper_bound && !work.sequence->has_lost() && !policy.low_rank()) {
    bounds_.assign(raw_.begin(), raw_.begin() + size_t{group} * n);
  }
  page::MergeScores(policy.merge, raw_.data(), group, n, geometry_.head_dim, scores_.data());
  if (!work.cache->lost.empty()) {
    for (uint32_t page = 0; page < n; ++page) {
      if (work.cache->IsLost(work.head, page)) scores_[page] = kLowest;
    }
  }
  const auto scored = Clock::now();

  const std::span<const float> scores = std::span(scores_).first(n);
  page::PinnedPages(n, policy.sinks, policy.window, by_position_);
  pinned_.clear();
  std::set_union(by_position_.begin(), by_position_.end(), outliers.begin(), outliers.end(),
                 std::back_inserter(pinned_));
  candidates_.clear();
  if (policy.rerank == page::Rerank::kSketch) ScoreBySketches(work, digests);
  if (policy.victims == Victims::kScore) work.hot().NoteScores(scores, policy.smoothing);
  if (policy.hysteresis > 0) {
    page::FavourResidents(work.hot().PagesBelow(n), policy.hysteresis, std::span(scores_).first(n));
  }
  if (policy.adapts()) {
    MakeCurve(work, scores);
  } else {
    SelectFixed(work, scores);
  }
  times.score_seconds += Seconds(scored - begin);
  times.select_seconds += Seconds(Clock::now() - scored);
}

float Selector::LogDropped(std::span<const float> bounds,
                           std::span<const uint32_t> selected) const {
  return page::LogDroppedBound(bounds, selected, ShapeOf(geometry_).scale, geometry_.page_tokens);
}

// The second stage: the best by their digests have their share of the mass as score, all others 0.
void Selector::ScoreBySketches(const HeadWork& work, const page::DigestMatrix& digests) {
  const Policy& policy = work.sequence->policy();
  const uint32_t n = digests.num_pages;
  const uint32_t group = geometry_.group_size();
  uint32_t count = page::CandidatePages(work.sequence->budget_pages(), policy.multiplier, n);
  if (policy.adapts()) count = std::max(count, work.sequence->Limits(n).ceiling);
  count += static_cast<uint32_t>(pinned_.size() - by_position_.size());
  candidates_.resize(std::min<size_t>(n, std::max<size_t>(count, pinned_.size())));
  candidates_.resize(
      page::SelectPages(std::span(scores_).first(n), pinned_, count, scratch_, candidates_));
  // What is lost has no mass, whatever its sketch says.
  std::erase_if(candidates_, [&](uint32_t page) { return work.cache->IsLost(work.head, page); });
  sketches_.clear();
  const size_t offset = page::SketchOffset(digests.kind, digests.head_dim, digests.dtype);
  for (const uint32_t page : candidates_) {
    sketches_.push_back(digests.rows + page * digests.row_stride_bytes + offset);
  }
  const auto candidates = static_cast<uint32_t>(candidates_.size());
  log_mass_.resize(size_t{group} * candidates);
  page::SketchLogMass(digests.kind, geometry_.page_tokens, ShapeOf(geometry_), work.q, sketches_,
                      log_mass_.data());
  // A copy, as shares overwrite it; the bounds have been taken out of raw_.
  std::copy(log_mass_.begin(), log_mass_.end(), raw_.begin());
  shares_.resize(candidates);
  page::MassScores(raw_.data(), group, candidates, shares_.data());
  for (float& score : std::span(scores_).first(n)) score = score == kLowest ? kLowest : 0;
  for (uint32_t i = 0; i < candidates; ++i) scores_[candidates_[i]] = shares_[i];
}

void Selector::SelectFixed(HeadWork& work, std::span<const float> scores) {
  const size_t n = scores.size();
  std::vector<uint32_t>& selected = work.selected();
  const auto outliers = static_cast<uint32_t>(pinned_.size() - by_position_.size());
  const uint32_t budget = work.sequence->budget_pages() + outliers;
  selected.resize(std::min(n, std::max<size_t>(budget, pinned_.size())));
  selected.resize(page::SelectPages(scores, pinned_, budget, scratch_, selected));
  LeaveOutLost(work);
  for (size_t at = 0; at < bounds_.size(); at += n) {
    work.log_dropped_bound.push_back(LogDropped(std::span(bounds_).subspan(at, n), selected));
  }
  const size_t known = candidates_.size();
  for (size_t g = 0; known > 0 && g < geometry_.group_size(); ++g) {
    work.log_dropped_estimate.push_back(page::LogDroppedMass(
        candidates_, std::span(log_mass_).subspan(g * known, known), selected));
  }
}

// log_dropped_bound: of the pages that are not on the curve.
void Selector::MakeCurve(HeadWork& work, std::span<const float> scores) {
  const size_t n = scores.size();
  page::MakeMassCurve(scores, pinned_, work.sequence->Limits(work.candidates), work.curve);
  work.curve_bounds.clear();
  if (bounds_.empty()) return;
  std::vector<uint32_t>& on_curve = work.selected();
  on_curve = work.curve.order;
  std::sort(on_curve.begin(), on_curve.end());
  for (size_t at = 0; at < bounds_.size(); at += n) {
    work.log_dropped_bound.push_back(LogDropped(std::span(bounds_).subspan(at, n), on_curve));
    for (const uint32_t page : work.curve.order) work.curve_bounds.push_back(bounds_[at + page]);
  }
}

void Selector::FitBudgets(std::span<HeadWork> works) {
  std::vector<page::MassCurve*> curves;
  for (HeadWork& work : works) curves.push_back(&work.curve);
  Sequence& sequence = *works.front().sequence;
  sequence.CountSelected(page::FitTotal(curves, sequence.TotalFor(works.front().layer)));
  for (HeadWork& work : works) {
    const page::MassCurve& curve = work.curve;
    const size_t length = curve.order.size();
    for (size_t g = 0; g < work.log_dropped_bound.size(); ++g) {
      const auto bounds = std::span(work.curve_bounds).subspan(g * length, length);
      work.log_dropped_bound[g] =
          page::LogAdd(work.log_dropped_bound[g], LogDropped(bounds.subspan(curve.budget), {}));
    }
    work.selected() = page::SelectedPages(curve);
    LeaveOutLost(work);
  }
}

}  // namespace varve::worker
