#include "kvstore/page/adaptive.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kvstore/page/select.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;

struct Head {
  std::vector<float> scores;
  std::vector<uint32_t> pinned;
  AdaptiveLimits limits;
};

// Few different scores, so that ties are common.
Head RandomHead(Rng& rng) {
  Head head;
  head.scores.resize(rng.Between(1, 60));
  const bool coarse = rng.Chance(0.3);
  for (float& score : head.scores) {
    score = coarse ? static_cast<float>(rng.Below(4)) : std::exp(3 * rng.Normal());
  }
  const auto pages = static_cast<uint32_t>(head.scores.size());
  PinnedPages(pages, rng.Below(3), rng.Below(3), head.pinned);
  head.limits.target = 0.05 * rng.Between(1, 20);
  head.limits.floor = rng.Between(1, 8);
  head.limits.ceiling = std::max(static_cast<uint32_t>(head.pinned.size()), rng.Between(1, 40));
  return head;
}

MassCurve CurveOf(const Head& head) {
  MassCurve curve;
  MakeMassCurve(head.scores, head.pinned, head.limits, curve);
  return curve;
}

double KeptMass(const Head& head, const std::vector<uint32_t>& selected) {
  double kept = 0;
  for (const uint32_t page : selected) kept += head.scores[page];
  return kept / std::accumulate(head.scores.begin(), head.scores.end(), 0.0);
}

uint64_t Sum(const std::vector<MassCurve>& curves) {
  uint64_t sum = 0;
  for (const MassCurve& curve : curves) sum += curve.budget;
  return sum;
}

void Fit(std::vector<MassCurve>& curves, uint64_t total) {
  std::vector<MassCurve*> pointers;
  for (MassCurve& curve : curves) pointers.push_back(&curve);
  FitTotal(pointers, total);
}

// The fewest pages that reach the target, by trying every budget with SelectPages.
std::vector<uint32_t> BruteForce(const Head& head) {
  const auto pages = static_cast<uint32_t>(head.scores.size());
  const uint32_t most = std::min(pages, head.limits.ceiling);
  SelectScratch scratch;
  std::vector<uint32_t> selected;
  for (uint32_t budget = std::min(most, head.limits.floor);; ++budget) {
    selected.assign(pages, 0);
    selected.resize(SelectPages(head.scores, head.pinned, budget, scratch, selected));
    if (budget >= most || KeptMass(head, selected) >= head.limits.target - 1e-12) return selected;
  }
}

TEST(AdaptiveBudget, IsTheFewestPagesThatReachTheTarget) {
  constexpr uint64_t kSeed = 601;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 3000; ++i) {
    Head head = RandomHead(rng);
    // Not on the edge, where the order of additions decides.
    head.limits.target -= 0.0137;
    if (*std::max_element(head.scores.begin(), head.scores.end()) == 0) continue;
    const MassCurve curve = CurveOf(head);
    ASSERT_EQ(SelectedPages(curve), BruteForce(head)) << i;
    ASSERT_GE(curve.budget, std::min<size_t>(head.limits.floor, curve.order.size()));
    ASSERT_LE(curve.budget, std::max<size_t>(head.limits.ceiling, head.pinned.size()));
  }
}

TEST(AdaptiveBudget, P17LargerTargetsContainSmallerOnes) {
  constexpr uint64_t kSeed = 602;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 500; ++i) {
    Head head = RandomHead(rng);
    std::vector<uint32_t> before;
    for (const double target : {0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
      head.limits.target = target;
      const std::vector<uint32_t> now = SelectedPages(CurveOf(head));
      ASSERT_TRUE(std::includes(now.begin(), now.end(), before.begin(), before.end()));
      ASSERT_TRUE(std::includes(now.begin(), now.end(), head.pinned.begin(), head.pinned.end()));
      before = now;
    }
  }
}

// The same by giving up one page after the other.
void FitOneByOne(std::vector<MassCurve>& curves, uint64_t total) {
  while (Sum(curves) > total) {
    MassCurve* least = nullptr;
    for (MassCurve& curve : curves) {
      if (curve.budget == curve.least) continue;
      const double share = curve.shares[curve.budget - 1];
      if (least == nullptr || share <= least->shares[least->budget - 1]) least = &curve;
    }
    if (least == nullptr) return;
    --least->budget;
  }
}

TEST(AdaptiveBudget, TheTotalTakesThePagesOfLeastMass) {
  constexpr uint64_t kSeed = 603;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  int fitted = 0;
  for (int i = 0; i < 2000; ++i) {
    std::vector<MassCurve> curves;
    uint64_t least = 0;
    for (uint32_t h = rng.Between(1, 6); h > 0; --h) {
      curves.push_back(CurveOf(RandomHead(rng)));
      least += curves.back().least;
    }
    const uint64_t total = rng.Below(static_cast<uint32_t>(Sum(curves)) + 4);
    std::vector<MassCurve> expected = curves;
    const std::vector<MassCurve> before = curves;
    FitOneByOne(expected, total);
    Fit(curves, total);
    ASSERT_LE(Sum(curves), std::max(total, least));
    if (Sum(before) > total) {
      ASSERT_EQ(Sum(curves), std::max(total, least));
      ++fitted;
    }
    for (size_t c = 0; c < curves.size(); ++c) {
      ASSERT_EQ(curves[c].budget, expected[c].budget) << "curve " << c;
      ASSERT_GE(curves[c].budget, curves[c].least);
    }
  }
  EXPECT_GT(fitted, 1000);
}

TEST(AdaptiveBudget, KnownValues) {
  const std::vector<float> scores = {0.1f, 0.4f, 0.2f, 0.2f, 0.1f};
  const std::vector<uint32_t> pinned = {4};
  MassCurve curve;
  MakeMassCurve(scores, pinned, {.target = 0.65, .floor = 1, .ceiling = 4}, curve);
  EXPECT_EQ(curve.order, (std::vector<uint32_t>{4, 1, 2, 3}));
  EXPECT_EQ(curve.least, 1u);
  EXPECT_EQ(SelectedPages(curve), (std::vector<uint32_t>{1, 2, 4}));
  MakeMassCurve(scores, pinned, {.target = 0.01, .floor = 2, .ceiling = 4}, curve);
  EXPECT_EQ(SelectedPages(curve), (std::vector<uint32_t>{1, 4}));
  MakeMassCurve(scores, pinned, {.target = 0.3, .floor = 1, .ceiling = 4}, curve, 2.0);
  EXPECT_EQ(SelectedPages(curve), (std::vector<uint32_t>{1, 2, 4}))
      << "half of the mass is elsewhere";
  MakeMassCurve(scores, pinned, {.target = 1, .floor = 1, .ceiling = 99}, curve);
  EXPECT_EQ(curve.budget, 5u);
}

TEST(AdaptiveBudget, ScoresThatAreNoMassComeLast) {
  const std::vector<float> scores = {std::nanf(""), 0.9f, -3.0f, 0.1f};
  MassCurve curve;
  MakeMassCurve(scores, {}, {.target = 0.999, .floor = 1, .ceiling = 4}, curve);
  EXPECT_EQ(SelectedPages(curve), (std::vector<uint32_t>{1, 3}));
  // Of no mass at all no share is reached.
  const std::vector<float> nothing(6, 0.0f);
  MakeMassCurve(nothing, {}, {.target = 0.1, .floor = 1, .ceiling = 4}, curve);
  EXPECT_EQ(SelectedPages(curve), (std::vector<uint32_t>{0, 1, 2, 3}));
}

TEST(CeilingPages, IsAMultipleOfTheBudget) {
  EXPECT_EQ(CeilingPages(10, 4, 100), 40u);
  EXPECT_EQ(CeilingPages(3, 1.5, 100), 5u);
  EXPECT_EQ(CeilingPages(10, 4, 30), 30u);
  EXPECT_EQ(CeilingPages(UINT32_MAX, 1024, 30), 30u);
}

}  // namespace
}  // namespace varve::page
