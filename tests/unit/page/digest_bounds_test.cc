// What the score of a digest says of the keys of its page: P1 to P4 and P6.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "tests/unit/page/digest_pages.h"

namespace varve::page {
namespace {

using testing::Build;
using testing::Bytes;
using testing::Encode;
using testing::Key;
using testing::Page;
using testing::RandomPage;
using testing::Rng;
using testing::Score;

// q.k of one key and the rounding allowance of a score, both in float64.
double Dot(const Page& page, uint32_t token, const std::vector<float>& q) {
  double dot = 0;
  for (uint32_t i = 0; i < page.head_dim; ++i) dot += q[i] * Key(page, token, i);
  return dot;
}

double GreatestDot(const Page& page, const std::vector<float>& q) {
  double greatest = -std::numeric_limits<double>::infinity();
  for (uint32_t t = 0; t < page.tokens; ++t) greatest = std::max(greatest, Dot(page, t, q));
  return greatest;
}

// P1 and P3: MEAN <= greatest q.k <= MINMAX, and MINMAX is exact for a page of one key.
TEST(DigestBoundsTest, MinMaxBoundsEveryKeyFromAbove) {
  constexpr uint64_t kSeed = 101;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 400; ++i) {
    const Page page = RandomPage(rng);
    const std::vector<float> q = rng.Floats(page.head_dim);
    const double upper = Score(DigestKind::kMinMax, page, Build(DigestKind::kMinMax, page), q);
    const double greatest = GreatestDot(page, q);
    // Float64 sums of exact products: only their own rounding separates the two.
    const double slack = 1e-12 * (std::abs(upper) + page.head_dim);
    EXPECT_LE(greatest, upper + slack);
    if (page.tokens == 1) {
      EXPECT_NEAR(greatest, upper, slack);
    }
  }
}

// Normal keys, of the same scale in every channel or not.
Page NormalPage(Rng& rng, bool even) {
  Page page = RandomPage(rng);
  for (uint32_t c = 0; c < page.head_dim; ++c) {
    const float scale = even ? 1.0f : std::ldexp(1.0f, -static_cast<int>(rng.Below(13)));
    for (uint32_t t = 0; t < page.tokens; ++t) {
      StoreF32(page.keys.data(), page.dtype, size_t{t} * page.head_dim + c, scale * rng.Normal());
    }
  }
  return page;
}

// P2: SPHERE bounds every key, nearly exactly so for a page of one key; neither it nor MINMAX is
// always the tighter bound.
TEST(DigestBoundsTest, SphereBoundsEveryKeyFromAbove) {
  constexpr uint64_t kSeed = 113;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  int sphere_tighter = 0, box_tighter = 0;
  for (int i = 0; i < 600; ++i) {
    const Page page = i % 3 == 0 ? RandomPage(rng) : NormalPage(rng, i % 3 == 1);
    const Bytes sphere = Build(DigestKind::kSphere, page);
    const Bytes box = Build(DigestKind::kMinMax, page);
    std::vector<float> q = rng.Floats(page.head_dim);
    const uint32_t token = rng.Below(page.tokens);
    for (uint32_t c = 0; c < page.head_dim; ++c) {
      if (i % 3 == 1) q[c] = rng.Normal();
      // From the centre towards a key, where the farthest key reaches the bound.
      if (i % 3 == 2) q[c] = Key(page, token, c) - LoadAsF32(sphere.data(), page.dtype, c);
    }
    const double upper = Score(DigestKind::kSphere, page, sphere, q);
    const double greatest = GreatestDot(page, q);
    double norm = 0, length = 0;
    for (uint32_t c = 0; c < page.head_dim; ++c) {
      norm += double{q[c]} * q[c];
      length = std::max(length, std::abs(Key(page, 0, c)));
    }
    norm = std::sqrt(norm);
    const double slack = 1e-12 * (std::abs(upper) + norm * length * page.head_dim);
    EXPECT_LE(greatest, upper + slack);
    if (page.tokens == 1 && page.dtype != DType::kF16) {
      // The centre is the key: the radius is what rounding takes.
      EXPECT_NEAR(greatest, upper, 1e-6 * norm * length * page.head_dim);
    }
    const double other = Score(DigestKind::kMinMax, page, box, q);
    (upper < other ? sphere_tighter : box_tighter) += 1;
  }
  EXPECT_GT(sphere_tighter, 50);
  EXPECT_GT(box_tighter, 50);
}

TEST(DigestBoundsTest, MeanBoundsTheBestKeyFromBelow) {
  constexpr uint64_t kSeed = 102;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 400; ++i) {
    Page page = RandomPage(rng);
    const std::vector<float> q = rng.Floats(page.head_dim);
    const double lower = Score(DigestKind::kMean, page, Build(DigestKind::kMean, page), q);
    const double upper = Score(DigestKind::kMinMax, page, Build(DigestKind::kMinMax, page), q);
    double scale = 0;
    for (uint32_t c = 0; c < page.head_dim; ++c) {
      double greatest = 0;
      for (uint32_t t = 0; t < page.tokens; ++t) {
        greatest = std::max(greatest, std::abs(Key(page, t, c)));
      }
      scale += std::abs(q[c]) * greatest;
    }
    // The mean is rounded once to the dtype.
    const double ulp = page.dtype == DType::kF32 ? 1e-5 : page.dtype == DType::kF16 ? 1e-3 : 8e-3;
    EXPECT_LE(lower, GreatestDot(page, q) + ulp * scale);
    EXPECT_LE(lower, upper + 1e-12 * scale) << "rounding is monotonic and the mean is clamped";
  }
}

// P4: the shrunk box lies inside the true box, channel by channel.
TEST(DigestBoundsTest, BoxMeanLiesInsideMinMax) {
  constexpr uint64_t kSeed = 103;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 400; ++i) {
    const Page page = RandomPage(rng);
    const Bytes box = Build(DigestKind::kMinMax, page);
    const Bytes shrunk = Build(DigestKind::kBoxMean, page);
    const Bytes mean = Build(DigestKind::kMean, page);
    for (uint32_t c = 0; c < page.head_dim; ++c) {
      const float hi = LoadAsF32(box.data(), page.dtype, c);
      const float lo = LoadAsF32(box.data(), page.dtype, page.head_dim + c);
      const float shrunk_hi = LoadAsF32(shrunk.data(), page.dtype, c);
      const float shrunk_lo = LoadAsF32(shrunk.data(), page.dtype, page.head_dim + c);
      ASSERT_LE(shrunk_hi, hi);
      ASSERT_GE(shrunk_lo, lo);
      ASSERT_LE(shrunk_lo, shrunk_hi);
      ASSERT_LE(LoadAsF32(mean.data(), page.dtype, c), hi);
      ASSERT_GE(LoadAsF32(mean.data(), page.dtype, c), lo);
    }
    const std::vector<float> q = rng.Floats(page.head_dim);
    const double upper = Score(DigestKind::kMinMax, page, box, q);
    EXPECT_LE(Score(DigestKind::kBoxMean, page, shrunk, q), upper + 1e-12 * std::abs(upper));
  }
}

// P6: a page whose bound lies below the k-th best exact value cannot be among the best k.
TEST(DigestBoundsTest, PruningByTheBoundNeverLosesATopPage) {
  constexpr uint64_t kSeed = 110;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  int pruned = 0;
  for (int i = 0; i < 60; ++i) {
    const uint32_t head_dim = rng.HeadDim();
    const DType dtype = rng.AnyDType();
    const std::vector<float> q = rng.Floats(head_dim);
    std::vector<double> exact, bound;
    for (int p = 0; p < 40; ++p) {
      Page page{rng.PageTokens(), head_dim, dtype, {}};
      std::vector<float> values = rng.Floats(size_t{page.tokens} * head_dim);
      // Pages differ in size, so that some bounds fall below some values.
      const float size = 0.02f + 2.0f * static_cast<float>(rng.Below(100)) / 100;
      for (float& v : values) v *= size;
      page.keys = Encode(values, dtype);
      exact.push_back(GreatestDot(page, q));
      bound.push_back(Score(DigestKind::kMinMax, page, Build(DigestKind::kMinMax, page), q));
    }
    const uint32_t k = rng.Between(1, 10);
    std::vector<double> sorted = exact;
    std::sort(sorted.rbegin(), sorted.rend());
    for (size_t p = 0; p < exact.size(); ++p) {
      if (bound[p] < sorted[k - 1]) {
        ++pruned;
        EXPECT_LT(exact[p], sorted[k - 1]);
      }
    }
  }
  EXPECT_GT(pruned, 50) << "the test prunes nothing";
}

}  // namespace
}  // namespace varve::page
