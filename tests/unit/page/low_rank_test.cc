#include "kvstore/page/lowrank/low_rank.h"

#include <gtest/gtest.h>

#include <limits>

#include "kvstore/page/rope.h"
#include "tests/unit/page/low_rank_data.h"

namespace varve::page {
namespace {

using testing::FallingSpectrum;
using testing::GramOf;
using testing::PlantedKeys;
using testing::ProjectAll;
using testing::RebuildAll;
using testing::Rng;
using testing::RowPointers;
using testing::SquaredDifference;
using testing::SquaredNorm;
using testing::SubspaceOf;

constexpr uint32_t kHeads = 3, kHeadDim = 40, kWidth = kHeads * kHeadDim;

// Element i of basis vector j, whichever head it belongs to.
double BasisElement(const Subspace& s, uint32_t j, uint32_t i) {
  const size_t row = size_t{i / s.head_dim} * s.rank + j;
  return LoadAsF32(s.basis.data(), s.dtype, row * s.head_dim + i % s.head_dim);
}

double GreatestDeviationFromOrthonormal(const Subspace& s) {
  double greatest = 0;
  for (uint32_t a = 0; a < s.rank; ++a) {
    for (uint32_t b = a; b < s.rank; ++b) {
      double dot = 0;
      for (uint32_t i = 0; i < s.width(); ++i) dot += BasisElement(s, a, i) * BasisElement(s, b, i);
      greatest = std::max(greatest, std::abs(dot - (a == b ? 1.0 : 0.0)));
    }
  }
  return greatest;
}

// P15: what is lost is what was dropped.
TEST(LowRankTest, TheErrorIsTheDiscardedSpectrum) {
  constexpr uint64_t kSeed = 921;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kTokens = 300;
  const std::vector<double> singular = FallingSpectrum(kWidth);
  const std::vector<float> keys = PlantedKeys(rng, kTokens, kWidth, singular);
  for (const uint32_t rank : {1u, 7u, 32u, 64u, 119u}) {
    SCOPED_TRACE("rank " + std::to_string(rank));
    double discarded = 0, total = 0;
    for (uint32_t j = 0; j < kWidth; ++j) {
      total += singular[j] * singular[j];
      if (j >= rank) discarded += singular[j] * singular[j];
    }
    const Subspace s = SubspaceOf(keys, kTokens, kHeads, kHeadDim, rank);
    EXPECT_NEAR(s.total_energy, total, 1e-6 * total);
    EXPECT_NEAR(s.discarded_energy, discarded, 1e-6 * total);
    EXPECT_NEAR(s.kept_share(), 1 - discarded / total, 1e-6);

    ProjectionEnergy energy;
    const auto rows = ProjectAll(s, keys, DType::kF32, &energy);
    const double lost = SquaredDifference(keys, RebuildAll(s, rows, DType::kF32));
    EXPECT_NEAR(lost, s.discarded_energy, 1e-3 * s.discarded_energy + 1e-9 * total);
    EXPECT_EQ(energy.tokens, kTokens);
    EXPECT_NEAR(energy.total, total, 1e-6 * total);
    EXPECT_NEAR(energy.residual, discarded, 1e-3 * discarded + 1e-6 * total);
  }
}

TEST(LowRankTest, FullRankIsExact) {
  constexpr uint64_t kSeed = 922;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kTokens = 61;  // fewer than the width: what they do not span is filled up
  const std::vector<float> keys = rng.Floats(kTokens * kWidth);
  const Subspace s = SubspaceOf(keys, kTokens, kHeads, kHeadDim, kWidth);
  EXPECT_LT(GreatestDeviationFromOrthonormal(s), 1e-5);
  const auto back = RebuildAll(s, ProjectAll(s, keys, DType::kF32), DType::kF32);
  EXPECT_LT(SquaredDifference(keys, back), 1e-8 * SquaredNorm(keys));
  // Keys that it was not made of, too.
  const std::vector<float> others = rng.Floats(kTokens * kWidth);
  const auto others_back = RebuildAll(s, ProjectAll(s, others, DType::kF32), DType::kF32);
  EXPECT_LT(SquaredDifference(others, others_back), 1e-8 * SquaredNorm(others));
}

TEST(LowRankTest, SixteenBitsLoseLittleMore) {
  constexpr uint64_t kSeed = 923;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kTokens = 200, kRank = 24;
  const std::vector<float> keys = PlantedKeys(rng, kTokens, kWidth, FallingSpectrum(kRank));
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    SCOPED_TRACE(DTypeName(dtype));
    const double unit = dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
    const Subspace s = SubspaceOf(keys, kTokens, kHeads, kHeadDim, kRank, dtype);
    EXPECT_LT(GreatestDeviationFromOrthonormal(s), 4 * unit);
    const auto back = RebuildAll(s, ProjectAll(s, keys, dtype), dtype);
    EXPECT_LT(SquaredDifference(keys, back), 4 * unit * unit * SquaredNorm(keys));
    EXPECT_GT(SquaredDifference(keys, back), 0);
  }
}

TEST(LowRankTest, BasisIsOrthonormalAndItsSignsAreFixed) {
  constexpr uint64_t kSeed = 924;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kRank = 20;
  for (const uint32_t tokens : {1u, 5u, 19u, 200u}) {
    SCOPED_TRACE("tokens " + std::to_string(tokens));
    std::vector<float> keys = rng.Floats(size_t{tokens} * kWidth);
    const Subspace s = SubspaceOf(keys, tokens, kHeads, kHeadDim, kRank);
    EXPECT_EQ(s.tokens, tokens);
    EXPECT_LT(GreatestDeviationFromOrthonormal(s), 1e-5);
    for (uint32_t j = 0; j < kRank; ++j) {
      double greatest = 0;
      for (uint32_t i = 0; i < kWidth; ++i) {
        if (std::abs(BasisElement(s, j, i)) > std::abs(greatest)) greatest = BasisElement(s, j, i);
      }
      EXPECT_GT(greatest, 0) << "vector " << j;
    }
    // The same of the negated keys: X^T X does not know the difference.
    for (float& v : keys) v = -v;
    EXPECT_EQ(SubspaceOf(keys, tokens, kHeads, kHeadDim, kRank).basis, s.basis);
  }
}

TEST(LowRankTest, RankByEnergyIsTheSmallestThatKeepsIt) {
  constexpr uint64_t kSeed = 925;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kTokens = 128;
  const std::vector<float> keys =
      PlantedKeys(rng, kTokens, kWidth, {8.0, 4.0, 2.0, 1.0});  // energies 64 16 4 1
  const auto gram = GramOf(keys, kTokens, kWidth);
  const auto rank_for = [&](double energy, uint32_t most) {
    Subspace s;
    EXPECT_EQ(MakeSubspace(gram, kTokens, kHeads, kHeadDim, {most, energy}, DType::kF32, s),
              std::nullopt);
    return s.rank;
  };
  EXPECT_EQ(rank_for(1e-9, 100), 1u);
  EXPECT_EQ(rank_for(63.9 / 85, 100), 1u);
  EXPECT_EQ(rank_for(64.1 / 85, 100), 2u);
  EXPECT_EQ(rank_for(80.1 / 85, 100), 3u);
  EXPECT_EQ(rank_for(84.1 / 85, 100), 4u);
  EXPECT_EQ(rank_for(84.1 / 85, 3), 3u);
  EXPECT_EQ(rank_for(0, 17), 17u);
}

TEST(LowRankTest, RefusesWhatCannotBeASubspace) {
  const std::vector<double> gram(kWidth * kWidth, 0.0);
  Subspace s;
  s.rank = 77;
  const auto make = [&](std::span<const double> g, uint64_t tokens, uint32_t heads, uint32_t d,
                        RankRule rule) {
    return MakeSubspace(g, tokens, heads, d, rule, DType::kF32, s).value_or("nothing");
  };
  EXPECT_EQ(make(gram, 5, kHeads, kHeadDim, {0, 0}),
            "rank is 0, allowed: 1..120 (num_kv_heads x head_dim)");
  EXPECT_EQ(make(gram, 5, kHeads, kHeadDim, {121, 0}),
            "rank is 121, allowed: 1..120 (num_kv_heads x head_dim)");
  EXPECT_EQ(make(gram, 0, kHeads, kHeadDim, {8, 0}),
            "a subspace of no tokens, allowed: at least 1");
  EXPECT_EQ(make(gram, 5, kHeads, kHeadDim, {8, 1.5}),
            "energy is 1.5, allowed: 0..1 (0: the rank as it is)");
  EXPECT_EQ(make(gram, 5, kHeads, kHeadDim, {8, std::nan("")}),
            "energy is nan, allowed: 0..1 (0: the rank as it is)");
  EXPECT_EQ(make(gram, 5, kHeads, 12, {8, 0}), "head_dim is 12, allowed: a multiple of 8");
  EXPECT_EQ(make(gram, 5, 0, kHeadDim, {8, 0}), "num_kv_heads x head_dim is 0, allowed: 1..8192");
  EXPECT_EQ(make(gram, 5, 300, 256, {8, 0}), "num_kv_heads x head_dim is 76800, allowed: 1..8192");
  EXPECT_EQ(make(gram, 5, 2, kHeadDim, {8, 0}),
            "the Gram matrix has 14400 elements, allowed: 80 x 80");
  std::vector<double> huge = gram;
  huge[17] = std::numeric_limits<double>::infinity();
  EXPECT_EQ(make(huge, 5, kHeads, kHeadDim, {8, 0}),
            "the Gram matrix is not finite: keys are too large for their squares");
  EXPECT_EQ(s.rank, 77u) << "touched by a failure";

  // Keys of nothing but zeros are no failure.
  EXPECT_EQ(make(gram, 5, kHeads, kHeadDim, {8, 0.9}), "nothing");
  EXPECT_EQ(s.rank, 1u);
  EXPECT_EQ(s.kept_share(), 1.0);
}

TEST(LowRankTest, KeysTooLargeForTheirSquaresAreRefusedByName) {
  const std::vector<float> keys(4 * kWidth, 1e30f);
  Subspace s;
  EXPECT_EQ(MakeSubspace(GramOf(keys, 4, kWidth), 4, kHeads, kHeadDim, {8, 0}, DType::kF32, s),
            "the Gram matrix is not finite: keys are too large for their squares");
}

TEST(LowRankTest, ProjectRefusesKeysThatAreNotFinite) {
  constexpr uint64_t kSeed = 926;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  std::vector<float> keys = rng.Floats(100 * kWidth);
  const Subspace s = SubspaceOf(keys, 100, kHeads, kHeadDim, 8);
  keys[77 * kWidth + 5] = std::numeric_limits<float>::infinity();
  std::vector<std::byte> rows(100 * RowBytes(s, DType::kBF16), std::byte{0x5a});
  const auto before = rows;
  ProjectionEnergy energy;
  EXPECT_EQ(Project(s, keys.data(), 100, DType::kF32, DType::kBF16, rows.data(), &energy),
            "key of token 77, channel 5 is infinite, allowed: finite keys");
  EXPECT_EQ(rows, before);
  EXPECT_EQ(energy.tokens, 0u);
}

// Of a basis vector (1, 1, 0, ..) / sqrt 2, against which (3e38, 3e38, 0, ..) is beyond fp32 and
// (3e38, -3e38, 0, ..) is too, or zero, by the order of the sum.
TEST(LowRankTest, ProjectRefusesKeysTooLargeForFp32) {
  Subspace s;
  s.num_kv_heads = kHeads;
  s.head_dim = kHeadDim;
  s.rank = 1;
  s.dtype = DType::kF32;
  s.basis.resize(kWidth * sizeof(float));
  for (const uint32_t i : {0u, 1u}) StoreF32(s.basis.data(), s.dtype, i, std::sqrt(0.5f));
  for (const DType rows_dtype : testing::kAllDTypes) {
    for (const float second : {3e38f, -3e38f}) {
      std::vector<float> keys(100 * kWidth, 1.0f);
      keys[77 * kWidth] = 3e38f;
      keys[77 * kWidth + 1] = second;
      std::vector<std::byte> rows(100 * RowBytes(s, rows_dtype), std::byte{0x5a});
      const auto before = rows;
      ProjectionEnergy energy;
      EXPECT_EQ(Project(s, keys.data(), 100, DType::kF32, rows_dtype, rows.data(), &energy),
                "key of token 77 has the norm 4.24264e+38, allowed: at most 1.32923e+36");
      EXPECT_EQ(rows, before);
      EXPECT_EQ(energy.tokens, 0u);
    }
  }
}

// The greatest keys that are taken, against vectors that they are parallel to: on every CPU what
// comes out is a number, or the greatest of the dtype.
TEST(LowRankTest, TheGreatestKeysComeBackFinite) {
  constexpr uint64_t kSeed = 932;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  std::vector<float> keys = rng.Floats(60 * kWidth);
  for (const DType dtype : testing::kAllDTypes) {
    const Subspace s = SubspaceOf(keys, 60, kHeads, kHeadDim, 50, dtype);
    std::vector<float> great(50 * kWidth);
    for (uint32_t j = 0; j < 50; ++j) {
      for (uint32_t i = 0; i < kWidth; ++i) {
        great[j * kWidth + i] = static_cast<float>(BasisElement(s, j, i) * kMaxKeyNorm * 0.99);
      }
    }
    for (const DType rows_dtype : testing::kAllDTypes) {
      ProjectionEnergy energy;
      const auto rows = ProjectAll(s, great, rows_dtype, &energy);
      EXPECT_LT(energy.residual_share(), 0.02);
      const float expected =
          std::min(static_cast<float>(kMaxKeyNorm * 0.99), GreatestFinite(rows_dtype));
      for (uint32_t j = 0; j < 50; ++j) {
        const float own = LoadAsF32(rows.data(), rows_dtype, j * 50 + j);
        EXPECT_NEAR(own, expected, 0.02 * expected);
      }
      const auto back = RebuildAll(s, rows, rows_dtype);
      EXPECT_TRUE(std::all_of(back.begin(), back.end(), [](float v) { return std::isfinite(v); }));
      if (rows_dtype != DType::kF16) {
        double share = 0;  // of doubles: squares of these floats are beyond fp32
        for (size_t i = 0; i < back.size(); ++i) {
          share += std::pow((double{back[i]} - great[i]) / kMaxKeyNorm, 2) / 50;
        }
        EXPECT_LT(share, 1e-3);
      }
    }
  }
}

TEST(LowRankTest, RowsAndKeysDoNotDependOnBatchOrOrder) {
  constexpr uint64_t kSeed = 927;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 12; ++i) {
    const DType dtype = rng.AnyDType(), rows_dtype = rng.AnyDType(), out_dtype = rng.AnyDType();
    const uint32_t tokens = rng.Between(60, 200), rank = rng.Between(1, 60);
    const std::vector<float> keys = rng.Floats(tokens * kWidth);
    const Subspace s = SubspaceOf(keys, tokens, kHeads, kHeadDim, rank, dtype);
    const size_t row_bytes = RowBytes(s, rows_dtype);
    ProjectionEnergy whole, parts;
    const auto rows = ProjectAll(s, keys, rows_dtype, &whole);
    std::vector<std::byte> split(rows.size());
    for (uint32_t done = 0; done < tokens;) {
      const uint32_t count = std::min(tokens - done, rng.Between(1, 70));
      ASSERT_EQ(Project(s, keys.data() + size_t{done} * kWidth, count, DType::kF32, rows_dtype,
                        split.data() + done * row_bytes, &parts),
                std::nullopt);
      done += count;
    }
    EXPECT_EQ(rows, split);
    EXPECT_EQ(whole.total, parts.total);
    EXPECT_EQ(whole.residual, parts.residual);

    const uint32_t head = rng.Below(kHeads);
    auto pointers = RowPointers(rows, row_bytes);
    std::vector<uint32_t> order(tokens);
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), rng.engine());
    std::vector<const std::byte*> shuffled;
    for (const uint32_t t : order) shuffled.push_back(pointers[t]);
    const size_t key_bytes = kHeadDim * DTypeBytes(out_dtype);
    std::vector<std::byte> straight(tokens * key_bytes), mixed(straight.size()), alone(key_bytes);
    Rebuild(s, head, pointers, rows_dtype, out_dtype, straight.data(), key_bytes);
    Rebuild(s, head, shuffled, rows_dtype, out_dtype, mixed.data(), key_bytes);
    for (uint32_t t = 0; t < tokens; ++t) {
      ASSERT_EQ(std::memcmp(&mixed[t * key_bytes], &straight[order[t] * key_bytes], key_bytes), 0);
      Rebuild(s, head, {&pointers[t], 1}, rows_dtype, out_dtype, alone.data(), key_bytes);
      ASSERT_EQ(std::memcmp(alone.data(), &straight[t * key_bytes], key_bytes), 0) << "token " << t;
    }
  }
}

TEST(LowRankTest, RebuiltKeysLieAtTheirStride) {
  constexpr uint64_t kSeed = 928;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const std::vector<float> keys = rng.Floats(50 * kWidth);
  const Subspace s = SubspaceOf(keys, 50, kHeads, kHeadDim, 30);
  const auto rows = ProjectAll(s, keys, DType::kBF16);
  const auto pointers = RowPointers(rows, RowBytes(s, DType::kBF16));
  for (const DType dtype : testing::kAllDTypes) {
    const size_t key_bytes = kHeadDim * DTypeBytes(dtype), stride = key_bytes + 12;
    std::vector<std::byte> packed(50 * key_bytes), apart(50 * stride, std::byte{0x5a});
    Rebuild(s, 1, pointers, DType::kBF16, dtype, packed.data(), key_bytes);
    Rebuild(s, 1, pointers, DType::kBF16, dtype, apart.data(), stride);
    for (uint32_t t = 0; t < 50; ++t) {
      EXPECT_EQ(std::memcmp(&packed[t * key_bytes], &apart[t * stride], key_bytes), 0);
      EXPECT_EQ(apart[t * stride + key_bytes], std::byte{0x5a}) << "written between keys";
    }
  }
}

// A subspace of the sum has both, though it is small beside all that the old one was of.
TEST(LowRankTest, OfOldAndNewTokensAlike) {
  constexpr uint64_t kSeed = 929;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kOld = 2000, kNew = 150;
  const std::vector<float> old_keys = PlantedKeys(rng, kOld, kWidth, FallingSpectrum(12));
  const std::vector<float> new_keys = PlantedKeys(rng, kNew, kWidth, FallingSpectrum(9));
  const Subspace old_one = SubspaceOf(old_keys, kOld, kHeads, kHeadDim, 12);
  GramAccumulator gram(kWidth);
  ASSERT_EQ(gram.Append(new_keys.data(), kNew, DType::kF32), std::nullopt);
  std::vector<double> sum = gram.Matrix();
  AddKept(old_one, kNew, sum);
  Subspace both;
  ASSERT_EQ(MakeSubspace(sum, 2 * kNew, kHeads, kHeadDim, {.rank = 21}, DType::kF32, both),
            std::nullopt);
  // Either has the same weight.
  const double per_old = old_one.total_energy / kOld, per_new = SquaredNorm(new_keys) / kNew;
  EXPECT_NEAR(both.total_energy, (per_old + per_new) * kNew, 1e-3 * both.total_energy);
  for (const std::vector<float>* keys : {&old_keys, &new_keys}) {
    ProjectionEnergy energy;
    ProjectAll(both, *keys, DType::kF32, &energy);
    EXPECT_LT(energy.residual_share(), 1e-4);
  }
}

TEST(LowRankTest, NewTokensOutsideTheSubspaceAreDueForARefresh) {
  constexpr uint64_t kSeed = 930;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const std::vector<float> keys = PlantedKeys(rng, 200, kWidth, FallingSpectrum(16));
  const Subspace s = SubspaceOf(keys, 200, kHeads, kHeadDim, 16);
  const RefreshRule rule = {64, 0.2};
  ProjectionEnergy inside, outside;
  ProjectAll(s, keys, DType::kBF16, &inside);
  EXPECT_LT(inside.residual_share(), 1e-5);
  EXPECT_FALSE(rule.Due(s, inside));
  const std::vector<float> strange = rng.Floats(63 * kWidth);
  ProjectAll(s, strange, DType::kBF16, &outside);
  EXPECT_GT(outside.residual_share(), 0.5);
  EXPECT_FALSE(rule.Due(s, outside)) << "too few tokens to tell";
  ProjectAll(s, std::vector<float>(strange.begin(), strange.begin() + kWidth), DType::kBF16,
             &outside);
  EXPECT_TRUE(rule.Due(s, outside));
  EXPECT_FALSE(rule.Due(s, ProjectionEnergy{64, 0, 0})) << "zero keys";
  EXPECT_FALSE((RefreshRule{64, 1}.Due(s, ProjectionEnergy{64, 1, 1})));

  // What a subspace dropped of its own tokens is no news.
  const Subspace coarse = SubspaceOf(keys, 200, kHeads, kHeadDim, 1);
  ProjectionEnergy same;
  ProjectAll(coarse, keys, DType::kBF16, &same);
  EXPECT_GT(same.residual_share(), 0.2);
  EXPECT_FALSE(rule.Due(coarse, same));
}

// P15: what the keys are off by is what was dropped and the rounding of basis and rows; turning
// them keeps that, so a logit is off by |q| |k - k~| / sqrt d at most.
TEST(LowRankTest, LogitErrorIsBoundedByTheKeysError) {
  constexpr uint64_t kSeed = 931;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kTokens = 120, kRank = 32;
  const std::vector<float> keys = PlantedKeys(rng, kTokens, kWidth, FallingSpectrum(kWidth));
  RopeParameters rope;
  rope.theta = 10000;
  rope.rotary_dim = kHeadDim;
  const RopeTable table(rope, kHeadDim);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    SCOPED_TRACE(DTypeName(dtype));
    const Subspace s = SubspaceOf(keys, kTokens, kHeads, kHeadDim, kRank, dtype);
    const auto back = RebuildAll(s, ProjectAll(s, keys, dtype), dtype);
    double lost = 0, turned_lost = 0;
    for (uint32_t t = 0; t < kTokens; ++t) {
      const std::vector<uint32_t> positions(kHeads, rng.Below(100000));
      std::vector<float> exact(kWidth), rebuilt(kWidth);
      table.Apply(positions, {&keys[t * kWidth], DType::kF32}, {exact.data(), DType::kF32});
      table.Apply(positions, {&back[t * kWidth], DType::kF32}, {rebuilt.data(), DType::kF32});
      for (uint32_t h = 0; h < kHeads; ++h) {
        double before = 0, after = 0, norm = 0, q_squared = 0, logit_error = 0;
        for (uint32_t i = h * kHeadDim; i < (h + 1) * kHeadDim; ++i) {
          const double q = rng.Normal();
          q_squared += q * q;
          logit_error += q * (double{exact[i]} - rebuilt[i]);
          after += std::pow(double{exact[i]} - rebuilt[i], 2);
          before += std::pow(double{keys[t * kWidth + i]} - back[t * kWidth + i], 2);
          norm += std::pow(double{keys[t * kWidth + i]}, 2);
        }
        lost += before;
        turned_lost += after;
        // Each turn is off by its rounding in fp32.
        const double allowed = std::sqrt(before) + 0x1p-20 * std::sqrt(norm);
        EXPECT_LE(std::sqrt(after), allowed);
        EXPECT_LE(std::abs(logit_error) / std::sqrt(kHeadDim),
                  std::sqrt(q_squared / kHeadDim) * allowed);
      }
    }
    // With the unit roundoff u the basis is off by u sqrt(r) in norm, which is in the rows and
    // again in the keys that are made of them; rows are off by another u. fp32 sums are off by
    // more, their width: that is what the floor of u is for.
    const double u = dtype == DType::kBF16 ? 0x1p-8 : 0x1p-18;
    const double rounding = (2 * std::sqrt(kRank) + 1) * u * std::sqrt(s.total_energy);
    EXPECT_LE(std::sqrt(lost), std::sqrt(s.discarded_energy) + rounding);
    EXPECT_LE(std::sqrt(turned_lost), std::sqrt(s.discarded_energy) + rounding);
  }
}

}  // namespace
}  // namespace varve::page
