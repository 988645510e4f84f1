// Scores by sketches: the kinds SIGN1, SIGN2 and SIGN4, for every implementation.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/simd/kernels.h"
#include "tests/unit/page/digest_pages.h"
#include "tests/unit/page/sketch_data.h"

namespace varve::page {
namespace {

using testing::Build;
using testing::Bytes;
using testing::DecodeQuery;
using testing::DecodeToken;
using testing::Encode;
using testing::Page;
using testing::Rng;
using testing::RotatedKey;
using testing::SketchQuery;
using testing::SketchToken;

constexpr DigestKind kSketches[] = {DigestKind::kSign1, DigestKind::kSign2, DigestKind::kSign4};

// A page of which one token alone counts: the others' means are far below. Its mean is 0 and its
// scale 1, so that the result is a multiple of the query's step.
TEST(SketchScoreTest, IntegerSumsAreTheSameForEveryImplementation) {
  constexpr uint64_t kSeed = 705;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 400; ++i) {
    const uint32_t head_dim = rng.HeadDim();
    const uint32_t tokens = rng.PageTokens();
    const uint32_t heads = rng.Between(1, 16);
    const DigestKind kind = kSketches[rng.Below(3)];
    const uint32_t bits = Info(kind).sketch_bits;
    Page page{tokens, head_dim, DType::kF32, {}};
    page.keys = testing::RandomElements(rng, size_t{tokens} * head_dim, page.dtype);
    std::vector<float> queries = rng.Floats(size_t{heads} * head_dim);
    if (i % 4 == 0) {  // the greatest sums there are
      std::fill(queries.begin(), queries.end(), 0.0f);
      for (uint32_t h = 0; h < heads; ++h) {
        for (uint32_t c = 0; c < head_dim; c += testing::BlockOf(head_dim)) {
          queries[size_t{h} * head_dim + c] = h % 2 == 0 ? 1.0f : -1.0f;
        }
      }
    }
    for (float& v : queries) v *= 1000;  // against which the logarithm is nothing
    Bytes sketch = Build(kind, page);
    const uint32_t counts = rng.Below(tokens);
    std::byte* tail = sketch.data() + sketch.size() - size_t{4} * tokens;
    const SketchToken token = DecodeToken(kind, sketch.data(), tokens, counts, head_dim);
    for (uint32_t h = 0; h < heads; ++h) {
      const SketchQuery q = DecodeQuery(kind, queries.data() + size_t{h} * head_dim, head_dim);
      if (q.sum == 0) continue;
      for (uint32_t t = 0; t < tokens; ++t) {
        const float mean = t == counts ? 0.0f : (q.sum > 0 ? -1e30f : 1e30f);
        StoreF32(tail, DType::kBF16, t, 1.0f);
        StoreF32(tail, DType::kBF16, tokens + t, mean);
      }
      const DigestMatrix matrix{kind, page.dtype, head_dim, tokens, sketch.data(), 0, 1};
      for (const ScoreImpl& impl : ScoreImpls()) {
        std::vector<float> raw(heads);
        impl.fn(matrix, queries.data(), heads, raw.data());
        // Less than half of one is lost to fp32.
        ASSERT_EQ(std::lround(raw[h] / q.step), testing::Levels(q, token, bits))
            << impl.name << " head " << h << " of " << heads;
      }
    }
  }
}

// A list of sketches gives what a matrix of them gives, but for the factor, and is comparable with
// the masses of the keys.
TEST(SketchScoreTest, ListsOfRows) {
  constexpr uint64_t kSeed = 706;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 60; ++i) {
    const uint32_t head_dim = rng.HeadDim(), tokens = rng.PageTokens();
    const uint32_t pages = rng.Below(40), heads = rng.Between(1, 20);
    const DigestKind kind = kSketches[rng.Below(3)];
    const size_t bytes = DigestBytes(kind, tokens, head_dim, DType::kF16);
    Bytes rows(pages * bytes + 1);
    std::vector<const std::byte*> list;
    std::vector<Page> keys;
    std::vector<std::vector<std::vector<double>>> rotated(pages);
    for (uint32_t p = 0; p < pages; ++p) {
      keys.push_back({tokens, head_dim, DType::kF16,
                      testing::RandomElements(rng, size_t{tokens} * head_dim, DType::kF16)});
      for (uint32_t t = 0; t < tokens; ++t) rotated[p].push_back(RotatedKey(keys.back(), t));
      const Bytes sketch = Build(kind, keys.back());
      std::copy(sketch.begin(), sketch.end(), rows.begin() + p * bytes);
    }
    for (uint32_t n = 0; n < pages; ++n) list.push_back(rows.data() + rng.Below(pages) * bytes);
    const std::vector<float> queries = rng.Floats(size_t{heads} * head_dim);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    const AttentionShape shape{heads, head_dim, DType::kF16, scale};
    std::vector<float> log_mass(size_t{heads} * pages + 1, 77.0f), raw(size_t{heads} * pages);
    SketchLogMass(kind, tokens, shape, queries.data(), list, log_mass.data());
    EXPECT_EQ(log_mass.back(), 77.0f) << "written past the end";
    const DigestMatrix matrix{kind, DType::kF16, head_dim, tokens, rows.data(), bytes, pages};
    ScorePages(matrix, queries.data(), heads, raw.data());
    for (uint32_t h = 0; h < heads; ++h) {
      const SketchQuery q = DecodeQuery(kind, queries.data() + size_t{h} * head_dim, head_dim);
      for (uint32_t n = 0; n < pages; ++n) {
        const auto page = static_cast<uint32_t>((list[n] - rows.data()) / bytes);
        const float mass = log_mass[size_t{h} * pages + n];
        EXPECT_EQ(std::sqrt(static_cast<float>(head_dim)) * mass, raw[size_t{h} * pages + page]);
        float exact = 0;
        const PageView view{keys[page].keys.data(), nullptr, tokens};
        PageLogMass({1, head_dim, DType::kF16, scale}, queries.data() + size_t{h} * head_dim,
                    std::span(&view, 1), &exact);
        double error = 0;
        for (uint32_t t = 0; t < tokens; ++t) {
          const SketchToken token = DecodeToken(kind, list[n], tokens, t, head_dim);
          const std::vector<double>& key = rotated[page][t];
          double sum = 0;
          for (uint32_t c = 0; c < head_dim; ++c) {
            const double value = token.Value(c, Info(kind).sketch_bits);
            sum += std::abs(q.rotated[c] * (key[c] - value)) + 0.5 * q.step * std::abs(value);
          }
          error = std::max(error, sum);
        }
        // log sum exp moves by no more than its largest logit does.
        ASSERT_NEAR(mass, exact, scale * error + 1e-4 * (1 + std::abs(exact)));
      }
    }
  }
}

TEST(SketchScoreTest, AQueryOfZerosMakesAllTokensEqual) {
  constexpr uint64_t kSeed = 707;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const Page page{16, 64, DType::kF32, testing::RandomElements(rng, 16 * 64, DType::kF32)};
  for (DigestKind kind : kSketches) {
    const Bytes sketch = Build(kind, page);
    for (float size : {0.0f, -0.0f, 1e-40f, 0x1p-120f}) {
      const std::vector<float> query(64, size);
      for (const ScoreImpl& impl : ScoreImpls()) {
        float raw = -1;
        impl.fn({kind, DType::kF32, 64, 16, sketch.data(), 0, 1}, query.data(), 1, &raw);
        EXPECT_NEAR(raw, 8 * std::log(16.0), 1e-5) << impl.name;
      }
    }
  }
}

// What some pages or query heads need (logits that overflow) changes nothing of the others that
// they share a call with.
TEST(SketchScoreTest, GreatNumbersStayWithTheirPageAndHead) {
  constexpr uint64_t kSeed = 708;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kHeadDim = 128, kPages = 11, kHeads = 6, kTokens = 32;
  for (DigestKind kind : kSketches) {
    const size_t bytes = DigestBytes(kind, kTokens, kHeadDim, DType::kF32);
    Bytes rows(kPages * bytes);
    for (uint32_t p = 0; p < kPages; ++p) {
      std::vector<float> keys = rng.Floats(kTokens * kHeadDim);
      if (p % 3 == 1) {
        for (float& v : keys) v *= 1e36f;
      }
      const Bytes sketch = Build(kind, {kTokens, kHeadDim, DType::kF32, Encode(keys, DType::kF32)});
      std::copy(sketch.begin(), sketch.end(), rows.begin() + p * bytes);
    }
    std::vector<float> queries = rng.Floats(kHeads * kHeadDim);
    const float sizes[kHeads] = {1, 1e9f, 1e33f, 1e12f, 1, 1e20f};
    for (uint32_t i = 0; i < kHeads * kHeadDim; ++i) queries[i] *= sizes[i / kHeadDim];
    const DigestMatrix all{kind, DType::kF32, kHeadDim, kTokens, rows.data(), bytes, kPages};
    for (const ScoreImpl& impl : ScoreImpls()) {
      std::vector<float> raw(kHeads * kPages);
      impl.fn(all, queries.data(), kHeads, raw.data());
      for (uint32_t h = 0; h < kHeads; ++h) {
        for (uint32_t p = 0; p < kPages; ++p) {
          DigestMatrix one = all;
          one.rows += p * bytes;
          one.num_pages = 1;
          float alone = NAN;
          impl.fn(one, queries.data() + h * kHeadDim, 1, &alone);
          EXPECT_EQ(raw[h * kPages + p], alone) << impl.name << " head " << h << " page " << p;
          EXPECT_LE(std::abs(alone), 1.01e30f * std::sqrt(128.0f));
          double expected;
          ScoreSketchReference(one, queries.data() + h * kHeadDim, 1, &expected);
          const double limit = 1e30 * std::sqrt(128.0);
          expected = std::clamp(expected, -limit, limit);
          EXPECT_NEAR(alone, expected,
                      testing::SketchTolerance(one, queries.data() + h * kHeadDim, one.rows))
              << impl.name << " head " << h << " page " << p;
        }
      }
    }
  }
}

// Logits so far below the greatest that their exponentials are no normal numbers, or nothing: below
// that of the page's first token or, with a query of the opposite sign, of its last.
TEST(SketchScoreTest, ExponentialsThatVanish) {
  constexpr uint32_t kHeadDim = 128, kTokens = 32;
  // Only the first channel is set, so the rotated keys of a token are equal: the mean alone counts.
  std::vector<float> keys(kTokens * kHeadDim, 0.0f);
  for (uint32_t t = 0; t < kTokens; ++t) keys[t * kHeadDim] = -50.0f * static_cast<float>(t);
  std::vector<float> query(kHeadDim, 0.0f);
  query[0] = 1.0f;
  for (DigestKind kind : kSketches) {
    const Bytes sketch = Build(kind, {kTokens, kHeadDim, DType::kF32, Encode(keys, DType::kF32)});
    for (float size : {1.0f, 10.0f, 17.0f, 30.0f, 1000.0f, -0.5f, -1.0f, -10.0f, -1000.0f}) {
      query[0] = size;
      const DigestMatrix matrix{kind, DType::kF32, kHeadDim, kTokens, sketch.data(), 0, 1};
      double expected;
      ScoreSketchReference(matrix, query.data(), 1, &expected);
      for (const ScoreImpl& impl : ScoreImpls()) {
        float raw = NAN;
        impl.fn(matrix, query.data(), 1, &raw);
        EXPECT_NEAR(raw, expected, testing::SketchTolerance(matrix, query.data(), sketch.data()))
            << impl.name << " " << size;
      }
    }
  }
}

// Of pages and query heads that are scored together, some have logits far above that of the first
// token: they are scored once more, and change no bit of the others.
TEST(SketchScoreTest, LogitsFarAboveTheFirstStayWithTheirPageAndHead) {
  constexpr uint32_t kHeadDim = 128, kTokens = 32, kPages = 5, kHeads = 5;
  constexpr float kQuerySizes[kHeads] = {1, -10, 0.1f, -1000, 1};
  constexpr float kKeySizes[kPages] = {50, 0.1f, 1, 50, 0.01f};
  std::vector<float> queries(kHeads * kHeadDim, 0.0f);
  for (uint32_t h = 0; h < kHeads; ++h) queries[h * kHeadDim] = kQuerySizes[h];
  for (DigestKind kind : kSketches) {
    const size_t bytes = DigestBytes(kind, kTokens, kHeadDim, DType::kF32);
    Bytes rows(kPages * bytes);
    for (uint32_t p = 0; p < kPages; ++p) {
      std::vector<float> keys(kTokens * kHeadDim, 0.0f);
      for (uint32_t t = 0; t < kTokens; ++t) {
        keys[t * kHeadDim] = -kKeySizes[p] * static_cast<float>(t);
      }
      const Bytes sketch = Build(kind, {kTokens, kHeadDim, DType::kF32, Encode(keys, DType::kF32)});
      std::copy(sketch.begin(), sketch.end(), rows.begin() + p * bytes);
    }
    const DigestMatrix all{kind, DType::kF32, kHeadDim, kTokens, rows.data(), bytes, kPages};
    for (const ScoreImpl& impl : ScoreImpls()) {
      std::vector<float> raw(kHeads * kPages);
      impl.fn(all, queries.data(), kHeads, raw.data());
      for (uint32_t i = 0; i < kHeads * kPages; ++i) {
        DigestMatrix one = all;
        one.rows += i % kPages * bytes;
        one.num_pages = 1;
        const float* query = queries.data() + i / kPages * kHeadDim;
        float alone = NAN;
        impl.fn(one, query, 1, &alone);
        EXPECT_EQ(raw[i], alone) << impl.name << " head " << i / kPages << " page " << i % kPages;
        double expected;
        ScoreSketchReference(one, query, 1, &expected);
        EXPECT_NEAR(alone, expected, testing::SketchTolerance(one, query, one.rows)) << impl.name;
      }
    }
  }
}

// Four integers of a query against codes of one bit add up to less than a byte holds, which is what
// the tables of sketch_avx512_vbmi.cc have room for; of the other kinds the integers are finer.
TEST(SketchScoreTest, IntegersOfAQuery) {
  constexpr uint64_t kSeed = 709;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 50; ++i) {
    const uint32_t head_dim = rng.HeadDim();
    const std::vector<float> query = rng.Floats(head_dim);
    for (DigestKind kind : kSketches) {
      const SketchQuery q = DecodeQuery(kind, query.data(), head_dim);
      int greatest = 0;
      for (uint32_t c = 0; c < head_dim; ++c) {
        greatest = std::max(greatest, std::abs(q.integers[c]));
        ASSERT_NEAR(q.step * q.integers[c], q.rotated[c], 0.5001 * q.step + 1e-5 * q.step * 127);
      }
      EXPECT_EQ(greatest, kind == DigestKind::kSign1 ? 63 : 127);
    }
  }
}

// The floating-point settings of the caller are as they were.
TEST(SketchScoreTest, LeavesSubnormalsToTheCaller) {
  constexpr uint64_t kSeed = 710;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const Page page{32, 128, DType::kBF16, testing::RandomElements(rng, 32 * 128, DType::kBF16)};
  const Bytes sketch = Build(DigestKind::kSign1, page);
  const std::vector<float> query = rng.Floats(128);
  const PageView view{page.keys.data(), nullptr, 32};
  float out = 0;
  for (const ScoreImpl& impl : ScoreImpls()) {
    impl.fn({DigestKind::kSign1, DType::kBF16, 128, 32, sketch.data(), 0, 1}, query.data(), 1,
            &out);
    PageLogMass({1, 128, DType::kBF16, 0.1f}, query.data(), std::span(&view, 1), &out);
    volatile float smallest = std::numeric_limits<float>::min();
    EXPECT_GT(smallest / 2, 0.0f) << impl.name;
  }
}

// No NaN, whatever finite keys and queries there are: a selection could not order it.
TEST(SketchScoreTest, TheGreatestNumbersGiveNumbers) {
  constexpr float kMax = std::numeric_limits<float>::max();
  for (const auto& [head_dim, tokens] : {std::pair{80u, 8u}, {256u, 8u}, {80u, 32u}, {128u, 16u}}) {
    std::vector<float> keys(tokens * head_dim, kMax);
    for (uint32_t c = 0; c < head_dim; ++c) keys[c] = c % 3 == 0 ? kMax : -kMax;
    const Page page{tokens, head_dim, DType::kF32, Encode(keys, DType::kF32)};
    for (DigestKind kind : kSketches) {
      const Bytes sketch = Build(kind, page);
      for (float size : {1.0f, -1e30f, kMax}) {
        std::vector<float> query(head_dim, size);
        query[0] = -size;
        for (const ScoreImpl& impl : ScoreImpls()) {
          float raw = NAN;
          impl.fn({kind, DType::kF32, head_dim, tokens, sketch.data(), 0, 1}, query.data(), 1,
                  &raw);
          EXPECT_TRUE(std::isfinite(raw)) << impl.name << " " << raw;
        }
      }
    }
  }
}

}  // namespace
}  // namespace varve::page
