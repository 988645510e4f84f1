#include "gpu_worker/low_rank_keys.h"

#include <cmath>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"

namespace varve::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint32_t kHeads = 2, kDim = 16, kTokens = 8, kPages = 12, kWidth = kHeads * kDim;

page::Geometry Turned(page::DType dtype = page::DType::kF32) {
  return {1, kHeads, 4, kDim, 8, dtype, page::RopeParameters{.theta = 10000, .rotary_dim = kDim}};
}

// Keys [page][head][token][channel] whose pre-RoPE rows have so many directions, each half as long
// as the one before.
class Planted {
 public:
  explicit Planted(uint32_t directions, uint64_t seed = 5) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<std::vector<float>> basis(directions, std::vector<float>(kWidth));
    for (auto& row : basis) {
      for (float& v : row) v = normal(random);
    }
    const page::RopeTable table(*Turned().rope, kDim);
    keys_.resize(size_t{kPages} * kHeads * kTokens * kDim);
    for (uint32_t token = 0; token < kPages * kTokens; ++token) {
      std::vector<float> x(kWidth, 0.0f);
      for (uint32_t i = 0; i < directions; ++i) {
        const float a = std::ldexp(normal(random), -static_cast<int>(i));
        for (uint32_t c = 0; c < kWidth; ++c) x[c] += a * basis[i][c];
      }
      for (uint32_t h = 0; h < kHeads; ++h) {
        float* const to = &keys_[At(token / kTokens, h) + token % kTokens * kDim];
        table.Apply({&token, 1}, {&x[h * kDim], page::DType::kF32}, {to, page::DType::kF32});
      }
    }
  }

  std::vector<const std::byte*> Page(uint32_t page) const {
    std::vector<const std::byte*> heads;
    for (uint32_t h = 0; h < kHeads; ++h) {
      heads.push_back(reinterpret_cast<const std::byte*>(&keys_[At(page, h)]));
    }
    return heads;
  }
  float* Row(uint32_t page, uint32_t head, uint32_t token) {
    return &keys_[At(page, head) + token * kDim];
  }

  // Added, fitted and projected.
  void Fill(LowRankKeys& keys, uint32_t outliers = 0) const {
    for (uint32_t p = 0; p < kPages; ++p) ASSERT_OK(keys.Add(Page(p)));
    ASSERT_OK(keys.Fit(outliers, page::DecomposeSymmetric));
    for (uint32_t p = 0; p < kPages; ++p) ASSERT_OK(keys.Project(Page(p)));
  }
  // The sum of the squares of what rebuilt keys are off by.
  double SquaredError(LowRankKeys& keys) const {
    double error = 0;
    std::vector<float> rebuilt(kTokens * kDim);
    RebuildScratch scratch;
    for (uint32_t p = 0; p < kPages; ++p) {
      for (uint32_t h = 0; h < kHeads; ++h) {
        const PageKeys to{p, reinterpret_cast<std::byte*>(rebuilt.data())};
        keys.Rebuild(h, {&to, 1}, scratch);
        for (uint32_t i = 0; i < rebuilt.size(); ++i) {
          error += std::pow(double{rebuilt[i]} - keys_[At(p, h) + i], 2);
        }
      }
    }
    return error;
  }

 private:
  static size_t At(uint32_t page, uint32_t head) {
    return (size_t{page} * kHeads + head) * kTokens * kDim;
  }
  std::vector<float> keys_;
};

Policy ShadowKV(const std::string& parameters) {
  return *ParsePolicy("shadowkv(" + parameters + ")");
}

// P15: what rebuilt keys are off by, at their positions, is the discarded energy.
TEST(LowRankKeys, AreOffByWhatIsDiscarded) {
  const Planted planted(6);
  const auto rope = RopePositions::Of(Turned());
  for (const uint32_t rank : {1u, 3u, 6u, kWidth}) {
    LowRankKeys keys(Turned(), ShadowKV("rank=" + std::to_string(rank)), rope.get());
    ASSERT_NO_FATAL_FAILURE(planted.Fill(keys));
    const page::Subspace& subspace = keys.subspace();
    EXPECT_EQ(subspace.rank, rank);
    EXPECT_NEAR(planted.SquaredError(keys), subspace.discarded_energy, 1e-4 * subspace.total_energy)
        << rank;
    EXPECT_NEAR(keys.energy().residual_share(), 1 - subspace.kept_share(), 1e-4);
    EXPECT_EQ(subspace.discarded_energy > 1e-3 * subspace.total_energy, rank < 6) << rank;
  }
}

TEST(LowRankKeys, AsManyAsTheEnergyNeeds) {
  const Planted planted(6);
  const auto rope = RopePositions::Of(Turned());
  LowRankKeys keys(Turned(), ShadowKV("rank=32,energy=0.9"), rope.get());
  ASSERT_NO_FATAL_FAILURE(planted.Fill(keys));
  EXPECT_LT(keys.subspace().rank, 6u);
  EXPECT_GE(keys.subspace().kept_share(), 0.9);
  EXPECT_LE(planted.SquaredError(keys), 0.1001 * keys.subspace().total_energy);
}

// The pages whose keys point here and there, not those that are merely long.
TEST(LowRankKeys, OutliersAreWhatTheirMeanDoesNotTell) {
  Planted planted(6);
  for (uint32_t p = 0; p < kPages; ++p) {
    for (uint32_t h = 0; h < kHeads; ++h) {
      for (uint32_t t = 0; t < kTokens; ++t) {
        for (uint32_t c = 0; c < kDim; ++c) {
          planted.Row(p, h, t)[c] = c == 0 ? 10.0f * static_cast<float>(p + 1) : 0.1f;
        }
      }
    }
  }
  planted.Row(7, 0, 3)[0] = -50;
  planted.Row(2, 1, 1)[0] = -5;
  planted.Row(9, 1, 0)[5] = 200;
  const auto rope = RopePositions::Of(Turned());
  LowRankKeys keys(Turned(), ShadowKV("rank=8"), rope.get());
  ASSERT_NO_FATAL_FAILURE(planted.Fill(keys, 1));
  EXPECT_THAT(keys.outliers(0), ElementsAre(7));
  EXPECT_THAT(keys.outliers(1), ElementsAre(2));
  EXPECT_TRUE(keys.IsOutlier(0, 7));
  EXPECT_FALSE(keys.IsOutlier(1, 7));
  LowRankKeys more(Turned(), ShadowKV("rank=8"), rope.get());
  ASSERT_NO_FATAL_FAILURE(planted.Fill(more, 2));
  EXPECT_THAT(more.outliers(1), ElementsAre(2, 9));
}

TEST(LowRankKeys, StartedAgainTheyAreTheSame) {
  const Planted planted(9);
  const auto rope = RopePositions::Of(Turned());
  LowRankKeys once(Turned(), ShadowKV("rank=5"), rope.get()),
      again(Turned(), ShadowKV("rank=5"), rope.get());
  for (uint32_t p = 0; p < 5; ++p) ASSERT_OK(again.Add(planted.Page(p)));
  again.StartAgain();
  EXPECT_EQ(again.added(), 0u);
  ASSERT_NO_FATAL_FAILURE(planted.Fill(once));
  ASSERT_NO_FATAL_FAILURE(planted.Fill(again));
  EXPECT_EQ(once.subspace().basis, again.subspace().basis);
  EXPECT_EQ(planted.SquaredError(once), planted.SquaredError(again));
}

// Runs what is due, if anything.
bool RunRefit(LowRankKeys& keys) {
  const std::shared_ptr<Refit> refit = keys.TakeRefit();
  if (refit == nullptr) return false;
  EXPECT_FALSE(keys.CanProject());
  EXPECT_TRUE(refit->Run(page::DecomposeSymmetric).ok());
  EXPECT_TRUE(keys.CanProject());
  return true;
}

// Pages of `text`, one after the other and again from its first, until a subspace is due.
uint32_t PagesUntilRefit(LowRankKeys& keys, const Planted& text, uint32_t most) {
  for (uint32_t p = 0; p < most; ++p) {
    EXPECT_TRUE(keys.Project(text.Page(p % kPages)).ok());
    if (RunRefit(keys)) return p + 1;
  }
  return 0;
}

// A subspace of few of all directions is not made again and again: what it drops of keys that stay
// as they are is no news.
TEST(LowRankKeys, KeysThatStayAlikeGetFewSubspaces) {
  constexpr uint32_t kWindow = 256 / kTokens;
  const Planted prompt(4, 5);
  const auto rope = RopePositions::Of(Turned());
  LowRankKeys keys(Turned(), ShadowKV("rank=8"), rope.get());
  ASSERT_NO_FATAL_FAILURE(prompt.Fill(keys));
  // The same in all directions, at all positions.
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> page(size_t{kHeads} * kTokens * kDim);
  std::vector<const std::byte*> heads;
  for (uint32_t h = 0; h < kHeads; ++h) {
    heads.push_back(reinterpret_cast<const std::byte*>(&page[size_t{h} * kTokens * kDim]));
  }
  std::vector<uint32_t> made;
  for (uint32_t p = 0; p < 60 * kWindow; ++p) {
    for (float& v : page) v = normal(random);
    ASSERT_OK(keys.Project(heads));
    if (RunRefit(keys)) made.push_back(p + 1);
  }
  ASSERT_FALSE(made.empty());
  EXPECT_EQ(made.front(), 2 * kWindow);
  EXPECT_LE(made.size(), 4u);
  EXPECT_GT(1 - keys.subspace().kept_share(), 0.5);
  EXPECT_EQ(keys.gram_bytes(), 0u);
}

// fp16 ends at 65504, and a rebuilt key is rounded more than once.
TEST(LowRankKeys, WhatIsRebuiltIsFinite) {
  constexpr uint16_t kGreatest = 0x7bff;
  const page::Geometry geometry = Turned(page::DType::kF16);
  const auto rope = RopePositions::Of(geometry);
  LowRankKeys keys(geometry, ShadowKV("rank=32"), rope.get());
  std::vector<uint16_t> page(size_t{kHeads} * kTokens * kDim);
  for (size_t row = 0; row < kTokens; ++row) page[row * kDim] = kGreatest;  // of one KV head
  std::vector<const std::byte*> heads;
  for (uint32_t h = 0; h < kHeads; ++h) {
    heads.push_back(reinterpret_cast<const std::byte*>(&page[size_t{h} * kTokens * kDim]));
  }
  for (uint32_t p = 0; p < kPages; ++p) ASSERT_OK(keys.Add(heads));
  ASSERT_OK(keys.Fit(0, page::DecomposeSymmetric));
  std::vector<uint16_t> rebuilt(kTokens * kDim);
  RebuildScratch scratch;
  for (uint32_t p = 0; p < kPages; ++p) {
    ASSERT_OK(keys.Project(heads));
    const PageKeys to{p, reinterpret_cast<std::byte*>(rebuilt.data())};
    keys.Rebuild(0, {&to, 1}, scratch);
    for (uint32_t i = 0; i < rebuilt.size(); ++i) {
      EXPECT_LE(rebuilt[i] & 0x7fff, kGreatest) << "page " << p << ", element " << i;
    }
  }
}

// The prompt's subspace is not that of what comes later.
TEST(LowRankKeys, LaterPagesGetASubspaceOfTheirOwn) {
  constexpr uint32_t kWindow = 256 / kTokens;
  // Positions do not matter here: pages of one text are turned back by other positions than they
  // were turned by, so a text is told from another by its seed and stays outside.
  const Planted prompt(4, 5), later(4, 6);
  const auto rope = RopePositions::Of(Turned());
  for (const std::string refresh : {"0.1", "1"}) {
    SCOPED_TRACE(refresh);
    LowRankKeys keys(Turned(), ShadowKV("rank=8,refresh=" + refresh), rope.get());
    ASSERT_NO_FATAL_FAILURE(prompt.Fill(keys));
    const double error = prompt.SquaredError(keys);
    // Found outside in one window, made from the next.
    EXPECT_EQ(PagesUntilRefit(keys, later, 3 * kWindow), refresh == "1" ? 0 : 2 * kWindow);
    EXPECT_EQ(keys.subspaces(), 1u) << "it is taken for the next page";
    ASSERT_OK(keys.Project(later.Page(0)));
    EXPECT_EQ(keys.subspaces(), refresh == "1" ? 1u : 2u);
    // Pages of both at once are what they are alone.
    const uint32_t last = keys.projected() - 1;
    std::vector<float> alone(kTokens * kDim), together[3];
    std::vector<PageKeys> to;
    RebuildScratch scratch;
    for (int i = 0; i < 3; ++i) {
      together[i].resize(alone.size());
      to.push_back({i == 1 ? last : 0, reinterpret_cast<std::byte*>(together[i].data())});
    }
    keys.Rebuild(0, to, scratch);
    for (int i = 0; i < 3; ++i) {
      const PageKeys one{to[i].page, reinterpret_cast<std::byte*>(alone.data())};
      keys.Rebuild(0, {&one, 1}, scratch);
      EXPECT_EQ(together[i], alone) << i;
    }
    // What was there is as it was.
    EXPECT_EQ(prompt.SquaredError(keys), error);
    const size_t basis = kWidth * 8 * sizeof(float);
    EXPECT_EQ(keys.basis_bytes(), keys.subspaces() * basis);
    EXPECT_EQ(keys.row_bytes(), keys.projected() * kTokens * 8 * sizeof(float));
  }
}

// However many at once, in any order, into any places.
TEST(LowRankKeys, ManyPagesAtOnceAreTheSame) {
  const Planted planted(6);
  const auto rope = RopePositions::Of(Turned());
  LowRankKeys keys(Turned(), ShadowKV("rank=5"), rope.get());
  ASSERT_NO_FATAL_FAILURE(planted.Fill(keys));
  constexpr uint32_t kMany = 60;  // several times what is rebuilt in one piece
  using PageOfKeys = std::vector<float>;
  std::vector<PageOfKeys> alone(kPages, PageOfKeys(kTokens * kDim)), all(kMany, alone[0]);
  std::vector<PageKeys> to;
  RebuildScratch scratch;
  for (uint32_t p = 0; p < kPages; ++p) {
    const PageKeys one{p, reinterpret_cast<std::byte*>(alone[p].data())};
    keys.Rebuild(1, {&one, 1}, scratch);
  }
  for (uint32_t i = 0; i < kMany; ++i) {
    to.push_back({i * 7 % kPages, reinterpret_cast<std::byte*>(all[i].data())});
  }
  keys.Rebuild(1, to, scratch);
  for (uint32_t i = 0; i < kMany; ++i) EXPECT_EQ(all[i], alone[i * 7 % kPages]) << i;
}

TEST(LowRankKeys, RefuseWhatSinglePrecisionCannotTurnBack) {
  Planted planted(6);
  // Turned back by 45 degrees, about, they are longer than any number.
  planted.Row(3, 0, 1)[0] = planted.Row(3, 0, 1)[8] = 3.4e38f;
  const auto rope = RopePositions::Of(Turned());
  LowRankKeys keys(Turned(), ShadowKV("rank=8"), rope.get());
  absl::Status status;
  for (uint32_t p = 0; p < kPages && status.ok(); ++p) status = keys.Add(planted.Page(p));
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("page 3"));
  EXPECT_EQ(keys.added(), 3u);
}

}  // namespace
}  // namespace varve::worker
