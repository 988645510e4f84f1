#include "kvstore/page/lowrank/landmark.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;
using Ids = std::vector<uint32_t>;

double MinCosineReference(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                          const void* landmark) {
  double least = 1;
  for (uint32_t t = 0; t < tokens; ++t) {
    long double dot = 0, key = 0, mean = 0;
    for (uint32_t i = 0; i < head_dim; ++i) {
      const long double k = LoadAsF32(keys, dtype, size_t{t} * head_dim + i);
      const long double m = LoadAsF32(landmark, dtype, i);
      dot += k * m;
      key += k * k;
      mean += m * m;
    }
    if (key == 0 && mean == 0) continue;
    const bool zero = key == 0 || mean == 0;
    least = std::min(least, zero ? 0.0 : static_cast<double>(dot / std::sqrt(key * mean)));
  }
  return least;
}

TEST(LandmarkTest, IsTheMeanDigestAndItsLeastCosine) {
  constexpr uint64_t kSeed = 941;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 200; ++i) {
    const DType dtype = rng.AnyDType();
    const uint32_t head_dim = rng.HeadDim(), tokens = 4u << rng.Below(4);
    const auto keys = testing::RandomElements(rng, size_t{tokens} * head_dim, dtype);
    const size_t row = DigestBytes(DigestKind::kMean, tokens, head_dim, dtype);
    std::vector<std::byte> landmark(row), digest(row);
    float cosine = 7;
    ASSERT_TRUE(BuildLandmark(keys.data(), tokens, head_dim, dtype, landmark.data(), &cosine));
    ASSERT_TRUE(
        BuildDigest(DigestKind::kMean, keys.data(), tokens, head_dim, dtype, digest.data()));
    EXPECT_EQ(landmark, digest);
    EXPECT_NEAR(cosine, MinCosineReference(keys.data(), tokens, head_dim, dtype, landmark.data()),
                1e-6);
  }
}

// P3: a chunk's best key is at least as good as its landmark says, but for rounding.
TEST(LandmarkTest, ScoreIsBelowTheBestKey) {
  constexpr uint64_t kSeed = 942;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 300; ++i) {
    const uint32_t head_dim = rng.HeadDim(), tokens = 4u << rng.Below(4);
    const std::vector<float> keys = rng.Floats(size_t{tokens} * head_dim);
    std::vector<float> landmark(head_dim);
    float cosine = 0;
    ASSERT_TRUE(
        BuildLandmark(keys.data(), tokens, head_dim, DType::kF32, landmark.data(), &cosine));
    const std::vector<float> q = rng.Floats(head_dim);
    float score = 0;
    ScorePages({DigestKind::kMean, DType::kF32, head_dim, tokens,
                reinterpret_cast<const std::byte*>(landmark.data()), head_dim * sizeof(float), 1},
               q.data(), 1, &score);
    double best = -std::numeric_limits<double>::infinity(), magnitude = 0;
    for (uint32_t t = 0; t < tokens; ++t) {
      double dot = 0;
      for (uint32_t c = 0; c < head_dim; ++c) {
        dot += double{q[c]} * keys[size_t{t} * head_dim + c];
        magnitude += std::abs(double{q[c]} * keys[size_t{t} * head_dim + c]);
      }
      best = std::max(best, dot);
    }
    EXPECT_LE(score, best + 4.0 * (head_dim + tokens) * 0x1p-24 * magnitude);
  }
}

TEST(LandmarkTest, ZeroVectorsHaveDefinedCosines) {
  constexpr uint32_t kHeadDim = 32, kTokens = 8;
  std::vector<float> keys(kTokens * kHeadDim, 0.0f), landmark(kHeadDim);
  float cosine = 7;
  const auto build = [&] {
    return BuildLandmark(keys.data(), kTokens, kHeadDim, DType::kF32, landmark.data(), &cosine);
  };
  ASSERT_TRUE(build());
  EXPECT_EQ(cosine, 1.0f) << "zeros are told whole by a zero mean";
  for (uint32_t t = 0; t < kTokens; ++t) keys[t * kHeadDim] = 2.0f;
  ASSERT_TRUE(build());
  EXPECT_EQ(cosine, 1.0f);
  keys[3 * kHeadDim] = 0.0f;
  ASSERT_TRUE(build());
  EXPECT_EQ(cosine, 0.0f) << "a zero key among others";
  for (uint32_t t = 0; t < kTokens; ++t) keys[t * kHeadDim] = t % 2 == 0 ? 2.0f : -2.0f;
  ASSERT_TRUE(build());
  EXPECT_EQ(cosine, 0.0f) << "a zero mean of others";
  keys[0] = 30.0f;
  ASSERT_TRUE(build());
  EXPECT_EQ(cosine, -1.0f);
}

TEST(LandmarkTest, RefusesWhatHasNoMean) {
  std::vector<float> keys(4 * 32, 1.0f), landmark(32, -7.0f);
  const auto before = landmark;
  float cosine = 7;
  EXPECT_FALSE(BuildLandmark(keys.data(), 0, 32, DType::kF32, landmark.data(), &cosine));
  keys[40] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(BuildLandmark(keys.data(), 4, 32, DType::kF32, landmark.data(), &cosine));
  EXPECT_EQ(landmark, before);
  EXPECT_EQ(cosine, 7.0f);
}

// Landmarks of one KV head, with the chunks given in `odd` made of keys that point everywhere.
struct Context {
  Context(Rng& rng, uint32_t chunks, const std::set<uint32_t>& odd) {
    std::vector<float> direction(kHeadDim);
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      for (float& v : direction) v = rng.Normal();
      std::vector<float> keys(kTokens * kHeadDim);
      for (uint32_t i = 0; i < keys.size(); ++i) {
        keys[i] =
            odd.contains(chunk) ? rng.Normal() : 3 * direction[i % kHeadDim] + 0.2f * rng.Normal();
      }
      rows.resize(rows.size() + kHeadDim);
      cosines.push_back(0);
      EXPECT_TRUE(BuildLandmark(keys.data(), kTokens, kHeadDim, DType::kF32,
                                &rows[size_t{chunk} * kHeadDim], &cosines.back()));
    }
  }
  static constexpr uint32_t kHeadDim = 64, kTokens = 8;
  std::vector<float> rows, cosines;
};

TEST(LandmarkTest, PlantedOutliersAreFound) {
  constexpr uint64_t kSeed = 943;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 20; ++i) {
    std::set<uint32_t> odd;
    while (odd.size() < 6) odd.insert(rng.Below(200));
    const Context context(rng, 200, odd);
    SelectScratch scratch;
    Ids outliers;
    ChooseOutliers(context.cosines, 6, scratch, outliers);
    EXPECT_EQ(outliers, Ids(odd.begin(), odd.end()));
  }
}

TEST(LandmarkTest, OutliersAreTheLowestAndTiesGoToTheLowerId) {
  SelectScratch scratch;
  Ids outliers;
  const std::vector<float> cosines = {0.5f, -0.2f, 0.1f, 0.5f, 0.1f, 0.9f, 0.1f};
  ChooseOutliers(cosines, 0, scratch, outliers);
  EXPECT_EQ(outliers, Ids{});
  ChooseOutliers(cosines, 1, scratch, outliers);
  EXPECT_EQ(outliers, Ids{1});
  ChooseOutliers(cosines, 3, scratch, outliers);
  EXPECT_EQ(outliers, (Ids{1, 2, 4}));
  ChooseOutliers(cosines, 5, scratch, outliers);
  EXPECT_EQ(outliers, (Ids{0, 1, 2, 4, 6}));
  ChooseOutliers(cosines, 50, scratch, outliers);
  EXPECT_EQ(outliers, (Ids{0, 1, 2, 3, 4, 5, 6}));
  ChooseOutliers({}, 5, scratch, outliers);
  EXPECT_EQ(outliers, Ids{});
}

}  // namespace
}  // namespace varve::page
