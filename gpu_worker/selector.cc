#include "gpu_worker/selector.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>

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
  if (policy.kind == PolicyKind::kFull || budget >= work.candidates) {
    SelectAll(work.candidates, work.selected());
    LeaveOutLost(work);
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
  const Policy& policy = work.sequence->policy();
  const uint32_t n = work.candidates;
  const uint32_t group = geometry_.group_size();
  raw_.resize(std::max(raw_.size(), size_t{group} * n));
  scores_.resize(std::max(scores_.size(), size_t{n}));
  const auto begin = Clock::now();
  page::DigestMatrix digests = work.cache->digests.Matrix(work.head);
  digests.num_pages = n;
  page::ScorePages(digests, work.q, group, raw_.data());
  page::MergeScores(policy.merge, raw_.data(), group, n, geometry_.head_dim, scores_.data());
  if (!work.cache->lost.empty()) {
    for (uint32_t page = 0; page < n; ++page) {
      if (work.cache->IsLost(work.head, page)) scores_[page] = kLowest;
    }
  }
  const auto scored = Clock::now();

  const std::span<const float> scores = std::span(scores_).first(n);
  page::PinnedPages(n, policy.sinks, policy.window, pinned_);
  std::vector<uint32_t>& selected = work.selected();
  const uint32_t budget = work.sequence->budget_pages();
  selected.resize(std::min<size_t>(n, std::max<size_t>(budget, pinned_.size())));
  selected.resize(page::SelectPages(scores, pinned_, budget, scratch_, selected));
  LeaveOutLost(work);
  work.hot().SetScores(scores);
  times.score_seconds += Seconds(scored - begin);
  times.select_seconds += Seconds(Clock::now() - scored);
}

}  // namespace varve::worker
