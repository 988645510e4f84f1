#include "kvstore/page/rerank.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace varve::page {
namespace {

TEST(Rerank, NamesGoBothWays) {
  for (const Rerank rerank : {Rerank::kNone, Rerank::kExact}) {
    EXPECT_EQ(RerankByName(RerankName(rerank)), rerank);
    EXPECT_NE(RerankNames().find(RerankName(rerank)), std::string_view::npos);
  }
  EXPECT_EQ(RerankByName("sketchy"), std::nullopt);
  EXPECT_EQ(RerankName(static_cast<Rerank>(9)), "?");
}

TEST(CandidatePages, AreAMultipleOfTheBudgetWithinThePages) {
  EXPECT_EQ(CandidatePages(10, 4, 1000), 40u);
  EXPECT_EQ(CandidatePages(10, 1, 1000), 10u);
  EXPECT_EQ(CandidatePages(3, 1.5, 1000), 5u);
  EXPECT_EQ(CandidatePages(10, 4, 39), 39u);
  EXPECT_EQ(CandidatePages(UINT32_MAX, kMaxMultiplier, 7), 7u);
}

TEST(MassScores, AreMeansOfSoftmaxes) {
  for (uint32_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const uint32_t group = 1 + random() % 8;
    const uint32_t count = 1 + random() % 70;
    std::normal_distribution<float> normal(0, 20);
    std::vector<float> log_mass(size_t{group} * count);
    for (float& value : log_mass) value = normal(random);
    std::vector<double> truth(count);
    for (uint32_t g = 0; g < group; ++g) {
      const float* row = log_mass.data() + size_t{g} * count;
      const double max = *std::max_element(row, row + count);
      double sum = 0;
      for (uint32_t i = 0; i < count; ++i) sum += std::exp(row[i] - max);
      for (uint32_t i = 0; i < count; ++i) truth[i] += std::exp(row[i] - max) / sum / group;
    }
    std::vector<float> scores(count);
    MassScores(log_mass.data(), group, count, scores.data());
    for (uint32_t i = 0; i < count; ++i) EXPECT_NEAR(scores[i], truth[i], 1e-5);
  }
}

TEST(FillScores, AllKnownIsWhatTheMassesSay) {
  const std::vector<float> digest = {1, 2, 3};
  const std::vector<uint32_t> known = {0, 1, 2};
  const std::vector<float> masses = {0.5f, 0.1f, 0.4f};
  std::vector<float> scores(3);
  FillScores(digest, known, masses, scores);
  EXPECT_EQ(scores, masses);
}

TEST(FillScores, NoneKnownIsWhatTheDigestsSay) {
  const std::vector<float> digest = {1, 2, 3};
  std::vector<float> scores(3);
  FillScores(digest, {}, {}, scores);
  EXPECT_EQ(scores, digest);
}

TEST(FillScores, TheUnknownKeepTheirRank) {
  const std::vector<float> digest = {5, 9, 1, 7};  // ranks 2, 0, 3, 1
  const std::vector<uint32_t> known = {0, 3};
  const std::vector<float> masses = {0.8f, 0.2f};
  std::vector<float> scores(4);
  FillScores(digest, known, masses, scores);
  EXPECT_EQ(scores[0], 0.8f);
  EXPECT_EQ(scores[3], 0.2f);
  EXPECT_EQ(scores[1], 0.8f) << "first of four by its digest: in the first half of the known";
  EXPECT_EQ(scores[2], 0.2f) << "last of four";
}

// Of two unknown ones the better digest never scores lower, and no score is outside of the known
// ones' range.
TEST(FillScores, RanksOfTheUnknownFollowTheirDigests) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const uint32_t count = 2 + random() % 40;
    std::uniform_real_distribution<float> uniform;
    std::vector<float> digest(count), masses;
    for (float& value : digest) value = uniform(random);
    std::vector<uint32_t> known;
    for (uint32_t i = 0; i < count; ++i) {
      if (random() % 2 == 0) known.push_back(i);
    }
    if (known.empty()) known.push_back(0);
    for (size_t i = 0; i < known.size(); ++i) masses.push_back(uniform(random));
    std::vector<float> scores(count);
    FillScores(digest, known, masses, scores);
    const auto [least, most] = std::minmax_element(masses.begin(), masses.end());
    for (uint32_t a = 0; a < count; ++a) {
      EXPECT_GE(scores[a], *least);
      EXPECT_LE(scores[a], *most);
      if (std::binary_search(known.begin(), known.end(), a)) continue;
      for (uint32_t b = 0; b < count; ++b) {
        if (std::binary_search(known.begin(), known.end(), b)) continue;
        if (digest[a] <= digest[b]) continue;
        EXPECT_GE(scores[a], scores[b]);
      }
    }
  }
}

}  // namespace
}  // namespace varve::page
