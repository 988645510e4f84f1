#include "kvstore/page/digest/digest.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kvstore/page/digest/digest_math.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/simd/kernels.h"
#include "tests/unit/page/digest_pages.h"

namespace varve::page {
namespace {

using testing::Build;
using testing::Bytes;
using testing::Encode;
using testing::Key;
using testing::Page;
using testing::RandomElements;
using testing::RandomPage;
using testing::Rng;
using testing::Score;

using Bytes = std::vector<std::byte>;
// The values themselves, from the definition in float64.
TEST(DigestTest, ValuesMatchTheirDefinition) {
  constexpr uint64_t kSeed = 104;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 200; ++i) {
    const Page page = RandomPage(rng);
    const Bytes box = Build(DigestKind::kMinMax, page);
    const Bytes shrunk = Build(DigestKind::kBoxMean, page);
    const Bytes mean = Build(DigestKind::kMean, page);
    const double unit = page.dtype == DType::kF32   ? 0x1p-20
                        : page.dtype == DType::kF16 ? 0x1p-10
                                                    : 0x1p-7;
    for (uint32_t c = 0; c < page.head_dim; ++c) {
      double hi = Key(page, 0, c), lo = hi, sum = 0, deviation = 0;
      for (uint32_t t = 0; t < page.tokens; ++t) {
        hi = std::max(hi, Key(page, t, c));
        lo = std::min(lo, Key(page, t, c));
        sum += Key(page, t, c);
      }
      const double center = (hi + lo) / 2;
      for (uint32_t t = 0; t < page.tokens; ++t) deviation += std::abs(Key(page, t, c) - center);
      const double half = deviation / page.tokens;
      const double tolerance = unit * (std::abs(hi) + std::abs(lo)) + 1e-7;
      ASSERT_EQ(LoadAsF32(box.data(), page.dtype, c), hi);
      ASSERT_EQ(LoadAsF32(box.data(), page.dtype, page.head_dim + c), lo);
      ASSERT_NEAR(LoadAsF32(shrunk.data(), page.dtype, c), center + half, tolerance);
      ASSERT_NEAR(LoadAsF32(shrunk.data(), page.dtype, page.head_dim + c), center - half,
                  tolerance);
      ASSERT_NEAR(LoadAsF32(mean.data(), page.dtype, c), sum / page.tokens, tolerance);
    }
  }
}

// P5, first half: any split of the tokens gives the same bits as the batch, for every kind.
TEST(DigestPropertyTest, IncrementalEqualsBatchForAnySplit) {
  constexpr uint64_t kSeed = 105;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 300; ++i) {
    const Page page = RandomPage(rng);
    for (const DigestKindInfo& info : DigestKinds()) {
      SCOPED_TRACE(info.name);
      DigestBuilder builder(info.kind, page.head_dim, page.dtype);
      for (uint32_t token = 0; token < page.tokens;) {
        const uint32_t count = rng.Below(page.tokens - token + 1);
        ASSERT_TRUE(builder.Append(page.keys.data() + token * page.row_bytes(), count));
        token += count;
        ASSERT_EQ(builder.tokens(), token);
      }
      Bytes out(DigestBytes(info.kind, page.tokens, page.head_dim, page.dtype));
      ASSERT_TRUE(builder.Finish(page.keys.data(), out.data()));
      EXPECT_EQ(out, Build(info.kind, page));
    }
  }
}

Page Permuted(const Page& page, Rng& rng) {
  std::vector<uint32_t> order(page.tokens);
  std::iota(order.begin(), order.end(), 0u);
  std::shuffle(order.begin(), order.end(), rng.engine());
  Page permuted = page;
  for (uint32_t t = 0; t < page.tokens; ++t) {
    std::memcpy(permuted.keys.data() + t * page.row_bytes(),
                page.keys.data() + order[t] * page.row_bytes(), page.row_bytes());
  }
  return permuted;
}

// P5, second half: MINMAX does not depend on the order of the tokens, -0 and +0 included.
TEST(DigestPropertyTest, MinMaxIsInvariantToTokenOrder) {
  constexpr uint64_t kSeed = 106;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 300; ++i) {
    Page page = RandomPage(rng);
    std::vector<float> values(size_t{page.tokens} * page.head_dim);
    // Many channels hold nothing but zeros of both signs.
    for (float& v : values) v = rng.Chance(0.7) ? (rng.Chance(0.5) ? 0.0f : -0.0f) : -rng.Value();
    page.keys = Encode(values, page.dtype);
    EXPECT_EQ(Build(DigestKind::kMinMax, Permuted(page, rng)), Build(DigestKind::kMinMax, page));
  }
}

bool HoldsNegativeZero(const Bytes& digest, DType dtype) {
  for (size_t i = 0; i < digest.size() / DTypeBytes(dtype); ++i) {
    const float v = LoadAsF32(digest.data(), dtype, i);
    if (v == 0 && std::signbit(v)) return true;
  }
  return false;
}

TEST(DigestTest, NegativeZeroIsStoredAsZero) {
  for (DType dtype : testing::kAllDTypes) {
    for (const DigestKindInfo& info : DigestKinds()) {
      SCOPED_TRACE(std::string(info.name) + " " + DTypeName(dtype));
      const Page zeros{4, 32, dtype, Encode(std::vector<float>(4 * 32, -0.0f), dtype)};
      EXPECT_FALSE(HoldsNegativeZero(Build(info.kind, zeros), dtype));
    }
  }
  // A negative mean that rounds to zero in fp16: the smallest subnormal, once among 32 zeros.
  std::vector<float> tiny(32 * 32, 0.0f);
  for (uint32_t c = 0; c < 32; ++c) tiny[c] = -0x1p-24f;
  const Page page{32, 32, DType::kF16, Encode(tiny, DType::kF16)};
  EXPECT_FALSE(HoldsNegativeZero(Build(DigestKind::kMean, page), page.dtype));
}

TEST(DigestTest, NaNAndInfinityAreRejectedAndNothingIsWritten) {
  const float bad_values[] = {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity()};
  constexpr uint64_t kSeed = 107;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 100; ++i) {
    Page page = RandomPage(rng);
    const Page good = page;
    StoreF32(page.keys.data(), page.dtype, rng.Below(page.tokens * page.head_dim),
             bad_values[rng.Below(3)]);
    for (const DigestKindInfo& info : DigestKinds()) {
      Bytes out(DigestBytes(info.kind, page.tokens, page.head_dim, page.dtype), std::byte{0x5a});
      const Bytes untouched = out;
      EXPECT_FALSE(BuildDigest(info.kind, page.keys.data(), page.tokens, page.head_dim, page.dtype,
                               out.data()));
      EXPECT_EQ(out, untouched);
      // A rejected append leaves the builder as it was.
      DigestBuilder builder(info.kind, page.head_dim, page.dtype);
      EXPECT_FALSE(builder.Finish(page.keys.data(), out.data()));
      EXPECT_FALSE(builder.Append(page.keys.data(), page.tokens));
      EXPECT_EQ(builder.tokens(), 0u);
      ASSERT_TRUE(builder.Append(good.keys.data(), good.tokens));
      ASSERT_TRUE(builder.Finish(good.keys.data(), out.data()));
      EXPECT_EQ(out, Build(info.kind, good));
    }
  }
  std::byte out[4 * 32 * 2];
  EXPECT_FALSE(BuildDigest(DigestKind::kMinMax, nullptr, 0, 32, DType::kF16, out));
}

TEST(DigestTest, ResetForgetsEverything) {
  constexpr uint64_t kSeed = 108;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (const DigestKindInfo& info : DigestKinds()) {
    const Page first = RandomPage(rng);
    Page second = first;
    second.keys = RandomElements(rng, size_t{first.tokens} * first.head_dim, first.dtype);
    DigestBuilder builder(info.kind, first.head_dim, first.dtype);
    ASSERT_TRUE(builder.Append(first.keys.data(), first.tokens));
    builder.Reset();
    ASSERT_TRUE(builder.Append(second.keys.data(), second.tokens));
    Bytes out(DigestBytes(info.kind, first.tokens, first.head_dim, first.dtype));
    ASSERT_TRUE(builder.Finish(second.keys.data(), out.data()));
    EXPECT_EQ(out, Build(info.kind, second));
  }
}

// P5, merge: the digest of a union, and a parent that never scores below a child.
TEST(DigestPropertyTest, MergeEqualsTheDigestOfTheUnion) {
  constexpr uint64_t kSeed = 109;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 300; ++i) {
    const Page a = RandomPage(rng);
    Page b = a;
    b.tokens = rng.Between(1, 32);
    b.keys = RandomElements(rng, size_t{b.tokens} * b.head_dim, b.dtype);
    Page both = a;
    both.tokens += b.tokens;
    both.keys.insert(both.keys.end(), b.keys.begin(), b.keys.end());
    const Bytes digest_a = Build(DigestKind::kMinMax, a);
    const Bytes digest_b = Build(DigestKind::kMinMax, b);
    Bytes merged(digest_a.size());
    MergeMinMax(digest_a.data(), digest_b.data(), a.head_dim, a.dtype, merged.data());
    EXPECT_EQ(merged, Build(DigestKind::kMinMax, both));
    const std::vector<float> q = rng.Floats(a.head_dim);
    const double parent = Score(DigestKind::kMinMax, both, merged, q);
    EXPECT_GE(parent, Score(DigestKind::kMinMax, a, digest_a, q));
    EXPECT_GE(parent, Score(DigestKind::kMinMax, b, digest_b, q));
  }
}

// The digest loops of every instruction set give the same bits.
TEST(DigestPropertyTest, EveryInstructionSetGivesTheSameBits) {
  constexpr uint64_t kSeed = 111;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 200; ++i) {
    const Page page = RandomPage(rng);
    const size_t d = page.head_dim;
    std::vector<float> first;
    for (const KernelTable* table : AllKernels()) {
      SCOPED_TRACE(table->name);
      std::vector<float> s(4 * d, 0.0f);
      std::fill_n(s.begin(), d, -std::numeric_limits<float>::infinity());
      std::fill_n(s.begin() + static_cast<std::ptrdiff_t>(d), d,
                  std::numeric_limits<float>::infinity());
      table->accumulate_statistics(page.keys.data(), page.tokens, page.head_dim, page.dtype,
                                   s.data(), s.data() + d, s.data() + 2 * d);
      table->accumulate_deviation(page.keys.data(), page.tokens, page.head_dim, page.dtype,
                                  s.data(), s.data() + d, s.data() + 3 * d);
      // Zeros of both signs compare equal, and are made equal when stored.
      if (first.empty()) first = s;
      EXPECT_EQ(s, first);
      // And they are the scalar truth.
      for (size_t c = 0; c < d; ++c) {
        float hi = -std::numeric_limits<float>::infinity(), lo = -hi, sum = 0, deviation = 0;
        for (uint32_t t = 0; t < page.tokens; ++t) {
          const float key = LoadAsF32(page.keys.data(), page.dtype, t * d + c);
          hi = digest_math::Max(hi, key);
          lo = digest_math::Min(lo, key);
          sum += key;
        }
        const float center = digest_math::Center(hi, lo);
        for (uint32_t t = 0; t < page.tokens; ++t) {
          deviation +=
              digest_math::Deviation(LoadAsF32(page.keys.data(), page.dtype, t * d + c), center);
        }
        ASSERT_EQ(s[c], hi);
        ASSERT_EQ(s[d + c], lo);
        ASSERT_EQ(s[2 * d + c], sum);
        ASSERT_EQ(s[3 * d + c], deviation);
      }
    }
  }
}

TEST(DigestTest, GreatestFiniteKeysGiveAFiniteDigest) {
  constexpr float kMax = std::numeric_limits<float>::max();
  std::vector<float> values(8 * 32, kMax);
  for (uint32_t c = 0; c < 16; ++c) values[c] = -kMax;
  for (DType dtype : testing::kAllDTypes) {
    const float greatest = dtype == DType::kF16    ? 65504.0f
                           : dtype == DType::kBF16 ? 3.3895314e38f
                                                   : kMax;
    std::vector<float> scaled = values;
    for (float& v : scaled) v = std::copysign(greatest, v);
    const Page page{8, 32, dtype, Encode(scaled, dtype)};
    const Geometry g{1, 1, 1, 32, 8, dtype};
    for (const DigestKindInfo& info : DigestKinds()) {
      SCOPED_TRACE(std::string(info.name) + " " + DTypeName(dtype));
      EXPECT_TRUE(DigestRowIsSane(info.kind, Build(info.kind, page).data(), g));
    }
  }
}

TEST(DigestRowTest, SanityFindsEveryKindOfDamage) {
  const Geometry g{1, 3, 3, 32, 8, DType::kF16};
  constexpr uint64_t kSeed = 112;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const Page page{8, 32, DType::kF16, RandomElements(rng, 8 * 32, DType::kF16)};
  for (const DigestKindInfo& info : DigestKinds()) {
    SCOPED_TRACE(info.name);
    Bytes row;
    for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
      const Bytes digest = Build(info.kind, page);
      row.insert(row.end(), digest.begin(), digest.end());
    }
    ASSERT_EQ(row.size(), DigestRowBytes(info.kind, g));
    EXPECT_TRUE(DigestRowIsSane(info.kind, row.data(), g));
    const size_t elements = row.size() / 2;
    if (HasSketch(info.kind)) continue;  // SketchTest
    for (size_t i = 0; i < elements; ++i) {
      for (uint16_t bad : {uint16_t{0x7c00}, uint16_t{0xfc00}, uint16_t{0x7e00}}) {
        Bytes damaged = row;
        std::memcpy(damaged.data() + 2 * i, &bad, 2);
        ASSERT_FALSE(DigestRowIsSane(info.kind, damaged.data(), g)) << i;
      }
    }
    if (info.kind == DigestKind::kSphere) {
      Bytes negative = row, behind = row;
      StoreF32(negative.data(), g.dtype, elements - kRadiusElements, -1.0f);
      StoreF32(behind.data(), g.dtype, elements - 1, 1.0f);
      EXPECT_FALSE(DigestRowIsSane(info.kind, negative.data(), g));
      EXPECT_FALSE(DigestRowIsSane(info.kind, behind.data(), g));
    }
    if (info.vectors == 2) {
      Bytes crossed = row;
      StoreF32(crossed.data(), g.dtype, elements - 1, 60000.0f);  // lo of the last head
      EXPECT_FALSE(DigestRowIsSane(info.kind, crossed.data(), g));
    }
  }
}

// MINMAX_SIGN1 and its like are MINMAX, then the sketch, each as it is alone.
TEST(DigestPropertyTest, ASketchBehindABoxIsTheSketchAlone) {
  constexpr uint64_t kSeed = 118;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const std::pair<DigestKind, DigestKind> kinds[] = {
      {DigestKind::kMinMaxSign1, DigestKind::kSign1},
      {DigestKind::kMinMaxSign2, DigestKind::kSign2},
      {DigestKind::kMinMaxSign4, DigestKind::kSign4}};
  for (int i = 0; i < 60; ++i) {
    const Page page = RandomPage(rng);
    const Geometry g{1, 1, 1, page.head_dim, page.tokens, page.dtype};
    const auto [both, sketch] = kinds[i % 3];
    Bytes expected = Build(DigestKind::kMinMax, page);
    EXPECT_EQ(SketchOffset(both, page.head_dim, page.dtype), expected.size());
    const Bytes behind = Build(sketch, page);
    expected.insert(expected.end(), behind.begin(), behind.end());
    const Bytes digest = Build(both, page);
    ASSERT_EQ(digest, expected);
    EXPECT_TRUE(DigestRowIsSane(both, digest.data(), g));
    Bytes crossed = digest, negative = digest;
    StoreF32(crossed.data(), g.dtype, 2 * page.head_dim - 1, 60000.0f);
    EXPECT_FALSE(DigestRowIsSane(both, crossed.data(), g));
    negative[digest.size() - 2 * page.tokens - 1] |= std::byte{0x80};  // of the last scale
    EXPECT_FALSE(DigestRowIsSane(both, negative.data(), g));
    const std::vector<float> q = rng.Floats(page.head_dim);
    float score = 0, of_box = 0;
    ScorePages({both, page.dtype, page.head_dim, page.tokens, digest.data(), digest.size(), 1},
               q.data(), 1, &score);
    ScorePages({DigestKind::kMinMax, page.dtype, page.head_dim, page.tokens, digest.data(),
                digest.size(), 1},
               q.data(), 1, &of_box);
    EXPECT_EQ(score, of_box);
  }
}

TEST(DigestKindTest, NamesAndBounds) {
  EXPECT_EQ(DigestKindByName("minmax"), DigestKind::kMinMax);
  EXPECT_EQ(DigestKindByName("box_mean"), DigestKind::kBoxMean);
  EXPECT_EQ(DigestKindByName("mean"), DigestKind::kMean);
  EXPECT_EQ(DigestKindByName("sphere"), DigestKind::kSphere);
  EXPECT_EQ(DigestKindByName("sign1"), DigestKind::kSign1);
  EXPECT_EQ(DigestKindByName("sign2"), DigestKind::kSign2);
  EXPECT_EQ(DigestKindByName("sign4"), DigestKind::kSign4);
  EXPECT_EQ(DigestKindByName("minmax_sign2"), DigestKind::kMinMaxSign2);
  EXPECT_TRUE(Info(DigestKind::kMinMaxSign1).is_upper_bound);
  EXPECT_EQ(DigestKindByName("MINMAX"), std::nullopt);
  EXPECT_EQ(DigestKindByName(""), std::nullopt);
  EXPECT_TRUE(Info(DigestKind::kMinMax).is_upper_bound);
  EXPECT_FALSE(Info(DigestKind::kBoxMean).is_upper_bound);
  EXPECT_TRUE(Info(DigestKind::kMean).is_lower_bound);
  EXPECT_EQ(DigestBytes(DigestKind::kMinMax, 32, 128, DType::kBF16), 512u);
  EXPECT_TRUE(Info(DigestKind::kSphere).is_upper_bound);
  EXPECT_EQ(DigestBytes(DigestKind::kMean, 32, 128, DType::kF32), 512u);
  EXPECT_EQ(DigestBytes(DigestKind::kSphere, 32, 128, DType::kBF16), 272u);
  for (const DigestKindInfo& info : DigestKinds()) {
    EXPECT_EQ(&Info(info.kind), &info);
    EXPECT_EQ(IsSketch(info.kind), info.sketch_bits != 0 && info.vectors == 0);
    if (!IsSketch(info.kind)) continue;
    EXPECT_FALSE(info.is_upper_bound || info.is_lower_bound);
    for (DType dtype : testing::kAllDTypes) {
      EXPECT_EQ(DigestBytes(info.kind, 32, 128, dtype), 32 * (16 * info.sketch_bits + 4));
      EXPECT_EQ(DigestBytes(info.kind, 8, 80, dtype),
                8 * ((80 * info.sketch_bits + 31) / 32 * 4 + 4));
    }
  }
}

}  // namespace
}  // namespace varve::page
