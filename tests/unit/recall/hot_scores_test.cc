// What a selection knows of the pages that the worker has: their scores, and the favour that
// hysteresis does them.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/recall/rerank_fixture.h"

namespace varve::recall {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class HotScoresTest : public RerankTest {
 protected:
  HeadSelection SelectOne(const SelectParams& params, const std::vector<float>& q, uint32_t budget,
                          const std::vector<uint32_t>& resident) {
    const std::vector<LayerQuery> layers = {
        {1, q,
         std::vector<HeadQuery>(g().num_kv_heads,
                                HeadQuery{.budget_pages = budget, .resident = resident})}};
    auto selections = table_->Select(ns_, "c", params, layers, nullptr);
    EXPECT_TRUE(selections.ok()) << selections.status();
    return selections.ok() ? std::move((*selections)[0].heads[0]) : HeadSelection();
  }
};

std::vector<uint32_t> SomePages(uint64_t seed, uint32_t count) {
  std::vector<uint32_t> pages(kPages);
  std::iota(pages.begin(), pages.end(), 0u);
  std::mt19937_64 random(seed);
  std::shuffle(pages.begin(), pages.end(), random);
  pages.resize(count);
  std::sort(pages.begin(), pages.end());
  return pages;
}

// The best of the candidates by shares, those of residents counted `factor` times; the first page
// and the last two are pinned.
std::vector<uint32_t> Best(std::vector<double> shares, const std::vector<uint32_t>& resident,
                           double factor, uint32_t budget) {
  for (const uint32_t page : resident) shares[page] *= factor;
  for (const uint32_t page : {0u, kPages - 2, kPages - 1}) shares[page] = 1e9;
  std::vector<uint32_t> order(kPages);
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return shares[a] > shares[b]; });
  order.resize(budget);
  std::sort(order.begin(), order.end());
  return order;
}

TEST_P(HotScoresTest, ResidentAndMissingPagesHaveTheirShares) {
  Fill();
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<float> q = RandomQueries(g(), seed);
    const std::vector<uint32_t> resident = SomePages(seed, 12);
    // All pages are candidates, so that the shares are those of all attention.
    SelectParams params = Params(page::Rerank::kExact, 1024);
    params.score_hot = true;
    std::vector<uint32_t> all(kPages);
    std::iota(all.begin(), all.end(), 0u);
    const std::vector<double> shares = Masses(1, 0, q, all);
    for (const double target : {0.0, 0.4}) {
      params.target = target;
      const HeadSelection head = SelectOne(params, q, 8, resident);
      ASSERT_EQ(head.resident_scores.size(), resident.size());
      ASSERT_EQ(head.missing_scores.size(), head.missing.size());
      for (size_t i = 0; i < resident.size(); ++i) {
        EXPECT_NEAR(head.resident_scores[i], shares[resident[i]], 1e-4);
      }
      for (size_t i = 0; i < head.missing.size(); ++i) {
        EXPECT_NEAR(head.missing_scores[i], shares[head.missing[i]], 1e-4);
      }
    }
  }
}

TEST_P(HotScoresTest, WithoutASecondStageTheyAreThoseOfTheDigests) {
  Fill();
  for (const double target : {0.0, 0.4}) {
    const std::vector<float> q = RandomQueries(g(), 3);
    const std::vector<uint32_t> resident = SomePages(3, 12);
    SelectParams params = Params(page::Rerank::kNone, 4);
    params.explain = true;
    params.target = target;
    EXPECT_TRUE(SelectOne(params, q, 8, resident).resident_scores.empty()) << "not asked for";
    params.score_hot = true;
    const HeadSelection head = SelectOne(params, q, 8, resident);
    ASSERT_EQ(head.resident_scores.size(), resident.size());
    for (size_t i = 0; i < resident.size(); ++i) {
      EXPECT_EQ(head.resident_scores[i], head.scores[resident[i]]);
    }
    for (size_t i = 0; i < head.missing.size(); ++i) {
      EXPECT_EQ(head.missing_scores[i], head.scores[head.missing[i]]);
    }
  }
}

TEST_P(HotScoresTest, WhatIsNoCandidateHasNone) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 5);
  std::vector<uint32_t> all(kPages);
  std::iota(all.begin(), all.end(), 0u);
  SelectParams params = Params(page::Rerank::kExact, 2);
  params.score_hot = true;
  const HeadSelection head = SelectOne(params, q, 8, all);
  ASSERT_EQ(head.resident_scores.size(), kPages);
  EXPECT_EQ(std::count(head.resident_scores.begin(), head.resident_scores.end(), 0.0f),
            kPages - 16);
  EXPECT_TRUE(SelectOne(params, q, kPages, all).resident_scores.empty())
      << "a budget for everything scores nothing";
}

TEST_P(HotScoresTest, HysteresisPrefersWhatIsThere) {
  Fill();
  uint32_t changed = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    const std::vector<float> q = RandomQueries(g(), seed);
    const std::vector<uint32_t> resident = SomePages(seed, 15);
    for (const page::Rerank rerank : {page::Rerank::kNone, page::Rerank::kExact}) {
      SelectParams params = Params(rerank, 1024);
      params.explain = true;
      const HeadSelection without = SelectOne(params, q, 9, resident);
      std::vector<double> shares(without.scores.begin(), without.scores.end());
      std::vector<uint32_t> all(kPages);
      std::iota(all.begin(), all.end(), 0u);
      if (rerank == page::Rerank::kExact) shares = Masses(1, 0, q, all);
      EXPECT_EQ(without.selected, Best(shares, resident, 1, 9));
      uint32_t missing = without.missing.size();
      for (const double hysteresis : {0.5, 2.0, 100.0}) {
        params.hysteresis = hysteresis;
        const HeadSelection with = SelectOne(params, q, 9, resident);
        EXPECT_EQ(with.selected, Best(shares, resident, 1 + hysteresis, 9));
        EXPECT_LE(with.missing.size(), missing);
        EXPECT_EQ(with.scores, without.scores) << "explained scores are those of the digests";
        missing = with.missing.size();
        changed += with.selected != without.selected ? 1 : 0;
      }
    }
  }
  EXPECT_GT(changed, 50u);
}

TEST_P(HotScoresTest, BadHysteresisNamesWhatIsAllowed) {
  Fill();
  const std::vector<float> q = RandomQueries(g(), 1);
  SelectParams params = Params(page::Rerank::kNone, 4);
  const auto message = [&] {
    const std::vector<LayerQuery> layers = {
        {0, q, std::vector<HeadQuery>(g().num_kv_heads, HeadQuery{.budget_pages = 7})}};
    const auto selections = table_->Select(ns_, "c", params, layers, nullptr);
    EXPECT_EQ(selections.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(selections.status().message());
  };
  for (const double hysteresis : {-0.1, 100.5, std::nan("")}) {
    params.hysteresis = hysteresis;
    EXPECT_THAT(message(), AllOf(HasSubstr("hysteresis is"), HasSubstr("allowed: 0..100")));
  }
  params.hysteresis = 1;
  params.target = 0.9;
  EXPECT_THAT(message(), HasSubstr("hysteresis with a target, allowed: one of them"));
  params.target = 0;
  params.merge = page::ScoreMerge::kMax;
  EXPECT_THAT(message(), HasSubstr("hysteresis with merge max, allowed: softmax_mean"));
}

INSTANTIATE_TEST_SUITE_P(DTypes, HotScoresTest,
                         testing::Values(page::DType::kF32, page::DType::kBF16),
                         [](const auto& info) { return std::string(page::DTypeName(info.param)); });

}  // namespace
}  // namespace varve::recall
