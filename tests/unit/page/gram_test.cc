#include "kvstore/page/lowrank/gram.h"

#include <gtest/gtest.h>

#include <limits>

#include "kvstore/page/lowrank/matrix_view.h"
#include "kvstore/page/simd/kernels.h"
#include "tests/unit/page/low_rank_data.h"

namespace varve::page {
namespace {

using testing::GramOf;
using testing::Rng;
using testing::SubspaceOf;

TEST(GramTest, IsTheSumOfProducts) {
  constexpr uint64_t kSeed = 901;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (const DType dtype : testing::kAllDTypes) {
    for (const uint32_t width : {1u, 8u, 47u, 48u, 49u, 104u, 200u}) {
      SCOPED_TRACE(std::string(DTypeName(dtype)) + " width " + std::to_string(width));
      const uint32_t tokens = rng.Between(1, 300);
      const auto keys = testing::RandomElements(rng, size_t{tokens} * width, dtype);
      GramAccumulator gram(width);
      ASSERT_EQ(gram.Append(keys.data(), tokens, dtype), std::nullopt);
      EXPECT_EQ(gram.tokens(), tokens);
      const std::vector<double> matrix = gram.Matrix();
      ASSERT_EQ(matrix.size(), size_t{width} * width);
      for (uint32_t i = 0; i < width; ++i) {
        for (uint32_t j = 0; j < width; ++j) {
          double sum = 0, magnitude = 0;
          for (uint32_t t = 0; t < tokens; ++t) {
            const double product = double{LoadAsF32(keys.data(), dtype, size_t{t} * width + i)} *
                                   LoadAsF32(keys.data(), dtype, size_t{t} * width + j);
            sum += product;
            magnitude += std::abs(product);
          }
          ASSERT_NEAR(matrix[size_t{i} * width + j], sum, 128 * 0x1p-23 * magnitude + 1e-30)
              << i << " " << j;
          ASSERT_EQ(matrix[size_t{i} * width + j], matrix[size_t{j} * width + i]);
        }
      }
    }
  }
}

TEST(GramTest, HasTheSameBitsHoweverTheTokensWereSplit) {
  constexpr uint64_t kSeed = 902;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kWidth = 72;
  for (int i = 0; i < 30; ++i) {
    const DType dtype = rng.AnyDType();
    const uint32_t tokens = rng.Between(1, 600);
    const auto keys = testing::RandomElements(rng, size_t{tokens} * kWidth, dtype);
    GramAccumulator whole(kWidth), parts(kWidth);
    ASSERT_EQ(whole.Append(keys.data(), tokens, dtype), std::nullopt);
    for (uint32_t done = 0; done < tokens;) {
      const uint32_t count = rng.Between(0, std::min(tokens - done, rng.Between(1, 200)));
      ASSERT_EQ(parts.Append(keys.data() + size_t{done} * kWidth * DTypeBytes(dtype), count, dtype),
                std::nullopt);
      done += count;
      if (rng.Chance(0.2)) (void)parts.Matrix();  // a look changes nothing
    }
    EXPECT_EQ(whole.Matrix(), parts.Matrix());
  }
}

TEST(GramTest, RefusesKeysThatAreNotFinite) {
  constexpr uint64_t kSeed = 903;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kWidth = 16, kTokens = 140;
  for (const DType dtype : testing::kAllDTypes) {
    std::vector<float> values(kTokens * kWidth);
    for (float& v : values) v = rng.Normal();
    GramAccumulator gram(kWidth), untouched(kWidth);
    const auto good = testing::Encode(values, dtype);
    ASSERT_EQ(gram.Append(good.data(), kTokens, dtype), std::nullopt);
    ASSERT_EQ(untouched.Append(good.data(), kTokens, dtype), std::nullopt);

    values[7 * kWidth + 12] = std::numeric_limits<float>::quiet_NaN();
    auto bad = testing::Encode(values, dtype);
    EXPECT_EQ(gram.Append(bad.data(), kTokens, dtype),
              "key of token 147, channel 12 is nan, allowed: finite keys");
    values[7 * kWidth + 12] = -std::numeric_limits<float>::infinity();
    bad = testing::Encode(values, dtype);
    EXPECT_EQ(gram.Append(bad.data(), kTokens, dtype),
              "key of token 147, channel 12 is infinite, allowed: finite keys");

    EXPECT_EQ(gram.tokens(), kTokens);
    EXPECT_EQ(gram.Matrix(), untouched.Matrix());
  }
}

// The limits that gram.h and subspace.h name.
TEST(GramTest, KeysTooSmallForTheirSquaresVanish) {
  constexpr uint32_t kTokens = 130, kWidth = 16;
  for (const float key : {1e-18f, 2e-23f}) {
    const std::vector<float> keys(kTokens * kWidth, key);
    const std::vector<double> gram = GramOf(keys, kTokens, kWidth);
    const double expected = key == 1e-18f ? kTokens * 1e-36 : 0;
    for (const double sum : gram) ASSERT_NEAR(sum, expected, 1e-4 * expected);
    const Subspace s = SubspaceOf(keys, kTokens, 2, 8, 1);
    EXPECT_NEAR(s.total_energy, kWidth * expected, 1e-4 * kWidth * expected);
    EXPECT_NEAR(s.kept_share(), 1, 1e-6);
  }
}

TEST(GramTest, ResetForgetsEverything) {
  constexpr uint64_t kSeed = 904;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kWidth = 50, kTokens = 200;
  const std::vector<float> before = rng.Floats(kTokens * kWidth), keys = rng.Floats(90 * kWidth);
  GramAccumulator used(kWidth), fresh(kWidth);
  ASSERT_EQ(used.Append(before.data(), kTokens, DType::kF32), std::nullopt);
  used.Reset();
  EXPECT_EQ(used.tokens(), 0u);
  EXPECT_EQ(used.Matrix(), fresh.Matrix());
  ASSERT_EQ(used.Append(keys.data(), 90, DType::kF32), std::nullopt);
  ASSERT_EQ(fresh.Append(keys.data(), 90, DType::kF32), std::nullopt);
  EXPECT_EQ(used.Matrix(), fresh.Matrix());
}

TEST(GramTest, EveryKernelSumsBlocks) {
  constexpr uint64_t kSeed = 905;
  VARVE_SEED(kSeed);
  for (const KernelTable* table : AllKernels()) {
    SCOPED_TRACE(table->name);
    Rng rng(kSeed);
    for (int round = 0; round < 6; ++round) {
      const uint32_t tokens = rng.Between(1, 128);
      const auto rows = rng.Floats(size_t{tokens} * kGramBlock);
      const auto cols = rng.Floats(size_t{tokens} * kGramBlock);
      std::vector<double> block(kGramBlock * kGramBlock, 0.25);
      table->add_gram_block(rows.data(), cols.data(), tokens, block.data());
      for (uint32_t i = 0; i < kGramBlock; ++i) {
        for (uint32_t j = 0; j < kGramBlock; ++j) {
          double sum = 0, magnitude = 0;
          for (uint32_t t = 0; t < tokens; ++t) {
            const double product = double{rows[t * kGramBlock + i]} * cols[t * kGramBlock + j];
            sum += product;
            magnitude += std::abs(product);
          }
          ASSERT_NEAR(block[i * kGramBlock + j], 0.25 + sum, tokens * 0x1p-23 * magnitude + 1e-12);
        }
      }
    }
  }
}

}  // namespace
}  // namespace varve::page
