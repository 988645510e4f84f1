#include "kvstore/page/mass.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "kvstore/page/attention.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/rows.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Pages of keys and their digests. Some pages have keys that are all alike: their bound is tight,
// so that only the allowance for rounding keeps it above the truth.
class Pages {
 public:
  Pages(Rng& rng, DigestKind kind, DType dtype)
      : kind_(kind), dtype_(dtype), head_dim_(8 * rng.Between(4, 6)), tokens_(8) {
    const uint32_t count = rng.Between(2, 9);
    for (uint32_t page = 0; page < count; ++page) {
      std::vector<float> keys = rng.Floats(size_t{tokens_} * head_dim_);
      if (rng.Chance(0.3)) {
        for (size_t i = head_dim_; i < keys.size(); ++i) keys[i] = keys[i - head_dim_];
      }
      keys_.push_back(testing::Encode(keys, dtype));
      const size_t at = digests_.size();
      digests_.resize(at + DigestBytes(kind, tokens_, head_dim_, dtype));
      EXPECT_TRUE(
          BuildDigest(kind, keys_.back().data(), tokens_, head_dim_, dtype, digests_.data() + at));
      for (size_t i = 0; i < keys.size(); ++i) {
        exact_.push_back(LoadAsF32(keys_.back().data(), dtype, i));
      }
      largest_ =
          std::max(largest_, LargestKeyElement(kind, digests_.data() + at, head_dim_, dtype));
    }
  }

  uint32_t count() const { return static_cast<uint32_t>(keys_.size()); }
  uint32_t head_dim() const { return head_dim_; }
  uint32_t tokens() const { return tokens_; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(head_dim_)); }
  float largest() const { return largest_; }
  DigestMatrix Digests() const {
    return {kind_, dtype_, head_dim_, tokens_, digests_.data(), digests_.size() / count(), count()};
  }
  AttentionShape Shape(uint32_t group) const { return {group, head_dim_, dtype_, scale()}; }
  PageView View(uint32_t page) const { return {keys_[page].data(), keys_[page].data(), tokens_}; }
  // In double.
  double LogMass(const float* q, uint32_t page) const {
    std::vector<double> logits(tokens_);
    const float* key = exact_.data() + size_t{page} * tokens_ * head_dim_;
    for (double& logit : logits) {
      for (uint32_t i = 0; i < head_dim_; ++i) logit += double{q[i]} * *key++;
      logit *= scale();
    }
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double logit : logits) sum += std::exp(logit - max);
    return max + std::log(sum);
  }

 private:
  DigestKind kind_;
  DType dtype_;
  uint32_t head_dim_, tokens_;
  float largest_ = 0;
  std::vector<std::vector<std::byte>> keys_;
  std::vector<std::byte> digests_;
  std::vector<float> exact_;  // all keys
};

std::vector<uint32_t> RandomSubset(Rng& rng, uint32_t count, double share) {
  std::vector<uint32_t> subset;
  for (uint32_t i = 0; i < count; ++i) {
    if (rng.Chance(share)) subset.push_back(i);
  }
  return subset;
}

std::vector<PageView> ViewsOf(const Pages& pages, std::span<const uint32_t> ids) {
  std::vector<PageView> views;
  for (const uint32_t id : ids) views.push_back(pages.View(id));
  return views;
}

struct Tally {
  std::vector<double> slack;        // bound over true share, in absolute terms
  std::vector<double> exact_slack;  // with keys known
};

// One step: a query group, a selection, and keys that are known of some pages.
void CheckStep(Rng& rng, const Pages& pages, Tally& tally) {
  const uint32_t n = pages.count();
  const uint32_t group = rng.Between(1, 3);
  const uint32_t d = pages.head_dim();
  std::vector<float> q = rng.Floats(size_t{group} * d);
  const float sharpness = rng.Chance(0.5) ? 1.0f : 0.05f;
  for (float& v : q) v *= sharpness;
  const std::vector<uint32_t> selected = RandomSubset(rng, n, rng.Chance(0.2) ? 1.0 : 0.6);
  const std::vector<uint32_t> known = RandomSubset(rng, n, rng.Chance(0.5) ? 1.0 : 0.5);

  std::vector<float> scores(size_t{group} * n), log_mass(size_t{group} * known.size());
  ScorePages(pages.Digests(), q.data(), group, scores.data());
  PageLogMass(pages.Shape(group), q.data(), ViewsOf(pages, known), log_mass.data());
  std::vector<float> out(q.size()), lse(group);
  AttendPages(pages.Shape(group), q.data(), ViewsOf(pages, selected), out.data(), lse.data());

  const auto kept_pages = static_cast<uint32_t>(selected.size());
  for (uint32_t g = 0; g < group; ++g) {
    const float* query = q.data() + size_t{g} * d;
    const auto row = std::span(scores).subspan(size_t{g} * n, n);
    const auto masses = std::span(log_mass).subspan(g * known.size(), known.size());
    std::vector<double> truths(n);
    for (uint32_t page = 0; page < n; ++page) truths[page] = pages.LogMass(query, page);
    const double max = *std::max_element(truths.begin(), truths.end());
    double dropped = 0, kept = 0, dropped_known = 0;
    for (uint32_t page = 0; page < n; ++page) {
      const double mass = std::exp(truths[page] - max);
      const bool in = std::binary_search(selected.begin(), selected.end(), page);
      (in ? kept : dropped) += mass;
      const bool seen = std::binary_search(known.begin(), known.end(), page);
      if (!in && seen) dropped_known += mass;
    }
    const double truth = dropped / (dropped + kept);
    const float slack = LogitSlack({query, d}, pages.largest(), pages.scale());
    const float by_digest = DroppedShare(
        LogDroppedBound(row, selected, pages.scale(), pages.tokens()), lse[g], kept_pages, slack);
    const float by_keys =
        DroppedShare(LogDroppedBound(row, known, masses, selected, pages.scale(), pages.tokens()),
                     lse[g], kept_pages, slack);
    ASSERT_GE(by_digest, truth);
    ASSERT_GE(by_keys, truth);
    ASSERT_LE(by_digest, 1.0f);
    // Keys make it tighter, but for what rounding adds.
    ASSERT_LE(by_keys, by_digest * 1.001 + 1e-6);
    const double estimate = std::exp(LogDroppedMass(known, masses, selected) - max);
    ASSERT_NEAR(estimate, dropped_known, 1e-3 * dropped_known + 1e-9);
    if (selected.size() == n) {
      ASSERT_EQ(by_digest, 0.0f);
      ASSERT_EQ(by_keys, 0.0f);
    } else {
      tally.slack.push_back(by_digest - truth);
      if (known.size() == n) tally.exact_slack.push_back(by_keys - truth);
    }
  }
}

double Median(std::vector<double>& values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// P7: the bound is never below the mass that a selection really dropped, whatever the selection,
// and whichever keys were looked at.
TEST(DroppedMassPropertyTest, TheBoundIsNeverBelowTheTruthIn100000Steps) {
  constexpr uint64_t kSeed = 508;
  constexpr int kSteps = 100000, kStepsOfPages = 100;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  Tally tally;
  for (int i = 0; i < kSteps / kStepsOfPages; ++i) {
    const DigestKind kind = i % 2 == 0 ? DigestKind::kMinMax : DigestKind::kSphere;
    const Pages pages(rng, kind, testing::kAllDTypes[i % 3]);
    for (int step = 0; step < kStepsOfPages; ++step) {
      CheckStep(rng, pages, tally);
      if (HasFatalFailure()) return;
    }
  }
  const double by_digest = Median(tally.slack), by_keys = Median(tally.exact_slack);
  std::printf("seed %d, %d steps: median slack of the bound %.3g, with all keys known %.3g\n",
              static_cast<int>(kSeed), kSteps, by_digest, by_keys);
  EXPECT_LT(by_digest, 0.5) << "the bound never says anything";
  EXPECT_LT(by_keys, 1e-3);
}

TEST(DroppedMassTest, KnownValues) {
  const std::vector<float> scores = {4.0f, 2.0f, 0.0f};
  const std::vector<uint32_t> all = {0, 1, 2}, first = {0};
  EXPECT_EQ(LogDroppedBound(scores, all, 0.5f, 8), -kInfinity);
  EXPECT_EQ(LogDroppedBound({}, {}, 0.5f, 8), -kInfinity);
  EXPECT_EQ(DroppedShare(-kInfinity, 1.0f, 3, 0), 0.0f);
  EXPECT_EQ(DroppedShare(-kInfinity, -kInfinity, 0, 0), 0.0f);
  const double dropped = 8 * (std::exp(1.0) + 1.0);
  const float log_dropped = LogDroppedBound(scores, first, 0.5f, 8);
  EXPECT_NEAR(log_dropped, std::log(dropped), 1e-4);
  EXPECT_NEAR(DroppedShare(log_dropped, 3.0f, 1, 0), dropped / (dropped + std::exp(3.0)), 1e-4);
  EXPECT_EQ(DroppedShare(log_dropped, -kInfinity, 0, 0), 1.0f);
  // More slack can only raise it.
  EXPECT_GT(DroppedShare(log_dropped, 3.0f, 1, 0.1f), DroppedShare(log_dropped, 3.0f, 1, 0));
  // More pages than the block in which exponentials are taken, and scores far from zero.
  const std::vector<float> many(1000, 2000.0f);
  EXPECT_NEAR(LogDroppedBound(many, {}, 0.5f, 1), 1000.0 + std::log(1000.0), 1e-3);
}

TEST(DroppedMassTest, ScoresThatAreNoNumbersProveNothing) {
  for (const float bad : {kInfinity, std::nanf("")}) {
    std::vector<float> scores(600, 1.0f);
    scores[300] = bad;
    const float log_dropped = LogDroppedBound(scores, {}, 1, 8);
    EXPECT_EQ(log_dropped, kInfinity);
    EXPECT_EQ(DroppedShare(log_dropped, 3.0f, 1, 0), 1.0f);
    const std::vector<uint32_t> selected = {300};
    EXPECT_LT(LogDroppedBound(scores, selected, 1, 8), 20.0f) << "it is not dropped";
  }
  EXPECT_EQ(DroppedShare(1.0f, 3.0f, 1, kInfinity), 1.0f);
}

TEST(DroppedMassTest, ExactMassTakesThePlaceOfTheBound) {
  const std::vector<float> scores = {4.0f, 40.0f, 2.0f, 3.0f};
  const std::vector<uint32_t> known = {1, 3}, selected = {0};
  const std::vector<float> log_mass = {1.0f, 90.0f};
  const double log_two = std::log(2.0);
  const double pages[] = {1.0, 2.0 + log_two, 3.0 + log_two};  // the worse of page 3 is no bound
  double sum = 0;
  for (const double page : pages) sum += std::exp(page);
  EXPECT_NEAR(LogDroppedBound(scores, known, log_mass, selected, 1, 2), std::log(sum), 1e-4);
  EXPECT_NEAR(LogDroppedMass(known, log_mass, selected), 90.0, 1e-4);
  const std::vector<uint32_t> both = {1, 3};
  EXPECT_EQ(LogDroppedMass(known, log_mass, both), -kInfinity);
}

TEST(LogAddTest, IsTheLogOfTheSum) {
  EXPECT_NEAR(LogAdd(1, 2), std::log(std::exp(1.0) + std::exp(2.0)), 1e-6);
  EXPECT_EQ(LogAdd(-kInfinity, 3), 3);
  EXPECT_EQ(LogAdd(3, -kInfinity), 3);
  EXPECT_EQ(LogAdd(-kInfinity, -kInfinity), -kInfinity);
  EXPECT_EQ(LogAdd(kInfinity, 3), kInfinity);
  EXPECT_EQ(LogAdd(kInfinity, kInfinity), kInfinity);
}

TEST(LargestKeyElementTest, IsOfTheKeys) {
  Rng rng(509);
  for (const DType dtype : testing::kAllDTypes) {
    const auto keys = testing::RandomElements(rng, size_t{8} * 32, dtype);
    const float truth = MaxMagnitude(keys.data(), size_t{8} * 32, dtype);
    const auto largest = [&](DigestKind kind) {
      std::vector<std::byte> digest(DigestBytes(kind, 8, 32, dtype));
      EXPECT_TRUE(BuildDigest(kind, keys.data(), 8, 32, dtype, digest.data()));
      return LargestKeyElement(kind, digest.data(), 32, dtype);
    };
    EXPECT_EQ(largest(DigestKind::kMinMax), truth);
    EXPECT_EQ(largest(DigestKind::kMinMaxSign2), truth);
    EXPECT_GE(largest(DigestKind::kSphere), truth);
    EXPECT_LT(largest(DigestKind::kSphere), 20 * truth);
    EXPECT_EQ(largest(DigestKind::kMean), kInfinity);
    EXPECT_EQ(largest(DigestKind::kBoxMean), kInfinity);
  }
}

}  // namespace
}  // namespace varve::page
