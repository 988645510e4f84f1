#include "kvstore/page/adaptive.h"

#include <algorithm>
#include <cmath>
#include <tuple>

namespace varve::page {
namespace {

double Mass(float score) { return score > 0 ? score : 0; }  // NaN too is none

// curve.order: pinned, then the best others until the ceiling.
void Order(std::span<const float> scores, std::span<const uint32_t> pinned, uint32_t ceiling,
           std::vector<uint32_t>& order) {
  order.assign(pinned.begin(), pinned.end());
  auto next = pinned.begin();
  for (uint32_t page = 0; page < scores.size(); ++page) {
    if (next != pinned.end() && *next == page) {
      ++next;
    } else {
      order.push_back(page);
    }
  }
  const size_t kept = std::clamp<size_t>(ceiling, pinned.size(), order.size());
  const auto better = [scores](uint32_t a, uint32_t b) {
    const double mass_a = Mass(scores[a]);
    const double mass_b = Mass(scores[b]);
    return mass_a != mass_b ? mass_a > mass_b : a < b;
  };
  const auto first = order.begin() + static_cast<std::ptrdiff_t>(pinned.size());
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(kept);
  if (end != order.end()) std::nth_element(first, end, order.end(), better);
  std::sort(first, end, better);
  order.resize(kept);
}

}  // namespace

void MakeMassCurve(std::span<const float> scores, std::span<const uint32_t> pinned,
                   const AdaptiveLimits& limits, MassCurve& curve, double whole) {
  Order(scores, pinned, limits.ceiling, curve.order);
  double sum = 0;
  for (const float score : scores) sum += Mass(score);
  if (whole > 0) sum = whole;
  curve.shares.clear();
  for (const uint32_t page : curve.order) {
    curve.shares.push_back(sum > 0 ? Mass(scores[page]) / sum : 0);
  }
  const auto most = static_cast<uint32_t>(curve.order.size());
  curve.least = std::min(most, std::max(limits.floor, static_cast<uint32_t>(pinned.size())));
  curve.budget = 0;
  double kept = 0;
  while (curve.budget < most && (curve.budget < curve.least || kept < limits.target)) {
    kept += curve.shares[curve.budget++];
  }
}

uint64_t FitTotal(std::span<MassCurve* const> curves, uint64_t total) {
  uint64_t sum = 0;
  for (const MassCurve* curve : curves) sum += curve->budget;
  if (sum <= total) return sum;
  struct Last {
    double share;
    uint32_t curve;
    uint32_t index;
  };
  // Shares fall along a curve but for the pinned pages, which stay: so what goes is its end.
  std::vector<Last> spare;
  for (uint32_t c = 0; c < curves.size(); ++c) {
    for (uint32_t i = curves[c]->least; i < curves[c]->budget; ++i) {
      spare.push_back({curves[c]->shares[i], c, i});
    }
  }
  const auto gone = static_cast<std::ptrdiff_t>(std::min<uint64_t>(sum - total, spare.size()));
  const auto before = [](const Last& a, const Last& b) {
    return std::tie(a.share, b.curve, b.index) < std::tie(b.share, a.curve, a.index);
  };
  if (gone < static_cast<std::ptrdiff_t>(spare.size())) {
    std::nth_element(spare.begin(), spare.begin() + gone, spare.end(), before);
  }
  for (auto last = spare.begin(); last != spare.begin() + gone; ++last) {
    --curves[last->curve]->budget;
  }
  return sum - static_cast<uint64_t>(gone);
}

std::vector<uint32_t> SelectedPages(const MassCurve& curve) {
  std::vector<uint32_t> selected(curve.order.begin(), curve.order.begin() + curve.budget);
  std::sort(selected.begin(), selected.end());
  return selected;
}

uint32_t CeilingPages(uint32_t budget, double ceiling, uint32_t num_pages) {
  const double pages = std::ceil(ceiling * budget);
  return pages < num_pages ? static_cast<uint32_t>(pages) : num_pages;
}

}  // namespace varve::page
