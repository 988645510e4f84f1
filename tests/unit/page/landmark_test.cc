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
    ASSERT_TRUE(IsChunkTokens(tokens));
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
  EXPECT_FALSE(IsChunkTokens(0));
  EXPECT_FALSE(IsChunkTokens(12));
  EXPECT_FALSE(IsChunkTokens(64));
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

TEST(LandmarkTest, RemovingOutliersKeepsTheOthersRows) {
  constexpr uint64_t kSeed = 944;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 100; ++i) {
    const uint32_t chunks = rng.Below(60);
    const size_t row_bytes = 24, stride = row_bytes + 8 * rng.Below(3);
    Ids outliers;
    for (uint32_t c = 0; c < chunks; ++c) {
      if (rng.Chance(0.2)) outliers.push_back(c);
    }
    std::vector<std::byte> rows(chunks * stride);
    for (std::byte& b : rows) b = static_cast<std::byte>(rng.Below(256));
    const auto before = rows;
    Ids ids;
    RemoveOutliers(outliers, chunks, rows.data(), stride, row_bytes, ids);
    ASSERT_EQ(ids.size(), chunks - outliers.size());
    EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
    for (size_t r = 0; r < ids.size(); ++r) {
      EXPECT_FALSE(std::binary_search(outliers.begin(), outliers.end(), ids[r]));
      EXPECT_EQ(std::memcmp(&rows[r * stride], &before[ids[r] * stride], row_bytes), 0);
    }
  }
}

// From the definition: softmax per query head over the landmarks left, the greatest of the group.
Ids SelectReference(const Context& context, const Ids& ids, const std::vector<float>& queries,
                    uint32_t group, uint32_t count) {
  constexpr uint32_t d = Context::kHeadDim;
  std::vector<double> best(ids.size());
  for (uint32_t g = 0; g < group; ++g) {
    std::vector<double> logits(ids.size());
    double total = 0;
    for (size_t r = 0; r < ids.size(); ++r) {
      double dot = 0;
      for (uint32_t c = 0; c < d; ++c) dot += double{queries[g * d + c]} * context.rows[r * d + c];
      logits[r] = dot / std::sqrt(d);
    }
    const double max = *std::max_element(logits.begin(), logits.end());
    for (double& v : logits) total += v = std::exp(v - max);
    for (size_t r = 0; r < ids.size(); ++r) best[r] = std::max(best[r], logits[r] / total);
  }
  std::vector<uint32_t> order(ids.size());
  for (uint32_t r = 0; r < order.size(); ++r) order[r] = r;
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return best[a] > best[b]; });
  order.resize(std::min<size_t>(count, order.size()));
  for (uint32_t& row : order) row = ids[row];
  std::sort(order.begin(), order.end());
  return order;
}

TEST(LandmarkTest, SelectsByTheGreatestShareOfTheGroup) {
  constexpr uint64_t kSeed = 945;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  ChunkScratch scratch;
  for (int i = 0; i < 60; ++i) {
    Context context(rng, rng.Between(8, 120), {});
    SelectScratch select;
    Ids outliers, ids, selected;
    ChooseOutliers(context.cosines, rng.Below(8), select, outliers);
    const size_t row = Context::kHeadDim * sizeof(float);
    RemoveOutliers(outliers, static_cast<uint32_t>(context.cosines.size()), context.rows.data(),
                   row, row, ids);
    const uint32_t group = rng.Between(1, 8), count = rng.Below(40);
    std::vector<float> queries(group * Context::kHeadDim);
    for (float& v : queries) v = 0.3f * rng.Normal();
    SelectChunks({DigestKind::kMean, DType::kF32, Context::kHeadDim, Context::kTokens,
                  reinterpret_cast<const std::byte*>(context.rows.data()), row,
                  static_cast<uint32_t>(ids.size())},
                 ids, queries.data(), group, count, scratch, selected);
    EXPECT_EQ(selected, SelectReference(context, ids, queries, group, count)) << "case " << i;
  }
}

TEST(LandmarkTest, EqualLandmarksAreTakenFromTheLowestId) {
  constexpr uint32_t kChunks = 20, d = 32;
  const std::vector<float> rows(kChunks * d, 1.0f), queries(2 * d, 0.5f);
  Ids ids, selected;
  for (uint32_t i = 0; i < kChunks; ++i) ids.push_back(3 * i + 5);
  ChunkScratch scratch;
  const DigestMatrix matrix = {
      DigestKind::kMean, DType::kF32, d, 8, reinterpret_cast<const std::byte*>(rows.data()),
      d * sizeof(float), kChunks};
  SelectChunks(matrix, ids, queries.data(), 2, 4, scratch, selected);
  EXPECT_EQ(selected, (Ids{5, 8, 11, 14}));
  DigestMatrix none = matrix;
  none.num_pages = 0;
  SelectChunks(none, {}, queries.data(), 2, 4, scratch, selected);
  EXPECT_EQ(selected, Ids{});
}

}  // namespace
}  // namespace varve::page
