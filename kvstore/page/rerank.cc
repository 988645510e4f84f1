#include "kvstore/page/rerank.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "kvstore/page/digest/score.h"

namespace varve::page {
namespace {

constexpr std::array<std::string_view, 3> kNames = {"none", "exact", "sketch"};

}  // namespace

std::optional<Rerank> RerankByName(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<Rerank>(found - kNames.begin());
}

std::string_view RerankName(Rerank rerank) {
  const auto i = static_cast<size_t>(rerank);
  return i < kNames.size() ? kNames[i] : "?";
}

std::string_view RerankNames() { return "none, exact, sketch"; }

uint32_t CandidatePages(uint32_t budget, double multiplier, uint32_t num_pages) {
  const double pages = std::ceil(multiplier * budget);
  return pages < num_pages ? static_cast<uint32_t>(pages) : num_pages;
}

void MassScores(float* log_mass, uint32_t group_size, uint32_t candidates, float* scores) {
  // They are scaled already, as scores of a head_dim of 1 are.
  MergeScores(ScoreMerge::kSoftmaxMean, log_mass, group_size, candidates, 1, scores);
}

void FillScores(std::span<const float> digest_scores, std::span<const uint32_t> known,
                std::span<const float> mass_scores, std::span<float> scores) {
  const size_t count = digest_scores.size();
  if (known.empty()) {
    std::copy(digest_scores.begin(), digest_scores.end(), scores.begin());
    return;
  }
  if (known.size() < count) {
    std::vector<float> falling(mass_scores.begin(), mass_scores.end());
    std::sort(falling.begin(), falling.end(), std::greater<>());
    std::vector<uint32_t> by_digest(count);
    std::iota(by_digest.begin(), by_digest.end(), 0u);
    std::stable_sort(by_digest.begin(), by_digest.end(),
                     [&](uint32_t a, uint32_t b) { return digest_scores[a] > digest_scores[b]; });
    for (size_t rank = 0; rank < count; ++rank) {
      scores[by_digest[rank]] = falling[rank * known.size() / count];
    }
  }
  for (size_t i = 0; i < known.size(); ++i) scores[known[i]] = mass_scores[i];
}

}  // namespace varve::page
