#include "kvstore/page/digest/score.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kvstore/page/simd/kernels.h"
#include "tests/unit/page/sketch_data.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;

struct Problem {
  DigestMatrix matrix;
  uint32_t group_size;
  std::vector<std::byte> memory;
  std::vector<float> queries;
};

// Rows may be strided and start anywhere; hi >= lo where the kind has both.
Problem RandomProblem(Rng& rng) {
  Problem p;
  const DigestKind kind = DigestKinds()[rng.Below(7)].kind;
  const DType dtype = rng.AnyDType();
  const uint32_t head_dim = rng.HeadDim();
  const uint32_t num_pages = rng.Below(71);
  p.group_size = rng.Between(1, 20);
  const uint32_t page_tokens = rng.PageTokens();
  const size_t row = DigestBytes(kind, page_tokens, head_dim, dtype);
  const size_t stride = row + (rng.Chance(0.5) ? 0 : DTypeBytes(dtype) * rng.Below(200));
  const size_t start = DTypeBytes(dtype) * rng.Below(40);
  const uint32_t elements = DigestElements(kind, head_dim);
  p.memory.resize(start + num_pages * stride + 1);
  for (uint32_t page = 0; page < num_pages; ++page) {
    if (IsSketch(kind)) {
      const auto keys = testing::RandomElements(rng, size_t{page_tokens} * head_dim, dtype);
      EXPECT_TRUE(BuildDigest(kind, keys.data(), page_tokens, head_dim, dtype,
                              p.memory.data() + start + page * stride));
      continue;
    }
    std::vector<float> values = rng.Floats(elements);
    for (uint32_t i = 0; i < head_dim && elements == 2 * head_dim; ++i) {
      if (values[i] < values[head_dim + i]) std::swap(values[i], values[head_dim + i]);
    }
    if (kind == DigestKind::kSphere) {
      values[head_dim] = std::abs(values[head_dim]);
      std::fill(values.begin() + head_dim + 1, values.end(), 0.0f);
    }
    const auto bytes = testing::Encode(values, dtype);
    std::memcpy(p.memory.data() + start + page * stride, bytes.data(), bytes.size());
  }
  p.matrix = {kind, dtype, head_dim, page_tokens, p.memory.data() + start, stride, num_pages};
  p.queries = rng.Floats(size_t{p.group_size} * head_dim);
  return p;
}

// sum_i |q_i| max(|hi_i|, |lo_i|), or sum_i |q_i| |c_i| + |q| r, what the header's tolerance is
// relative to.
double Magnitude(const Problem& p, uint32_t head, uint32_t page) {
  const DigestMatrix& m = p.matrix;
  const std::byte* row = m.rows + page * m.row_stride_bytes;
  double sum = 0, norm = 0;
  for (uint32_t i = 0; i < m.head_dim; ++i) {
    double greatest = std::abs(LoadAsF32(row, m.dtype, i));
    if (Info(m.kind).vectors == 2) {
      greatest = std::max<double>(greatest, std::abs(LoadAsF32(row, m.dtype, m.head_dim + i)));
    }
    const double q = p.queries[size_t{head} * m.head_dim + i];
    sum += std::abs(q) * greatest;
    norm += q * q;
  }
  if (m.kind != DigestKind::kSphere) return sum;
  return sum + std::sqrt(norm) * kRadiusScale * LoadAsF32(row, m.dtype, m.head_dim);
}

// Of a page's score, as the header says.
double Tolerance(const Problem& p, uint32_t head, uint32_t page) {
  const DigestMatrix& m = p.matrix;
  if (!IsSketch(m.kind)) return 4.0 * m.head_dim * 0x1p-24 * Magnitude(p, head, page);
  return testing::SketchTolerance(m, p.queries.data() + size_t{head} * m.head_dim,
                                  m.rows + page * m.row_stride_bytes);
}

void CheckAgainstReference(const Problem& p, ScoreFn fn) {
  const size_t count = size_t{p.group_size} * p.matrix.num_pages;
  std::vector<double> expected(count);
  ScorePagesReference(p.matrix, p.queries.data(), p.group_size, expected.data());
  constexpr float kPoison = -12345.0f;
  std::vector<float> actual(count + 1, std::numeric_limits<float>::quiet_NaN());
  actual[count] = kPoison;
  fn(p.matrix, p.queries.data(), p.group_size, actual.data());
  EXPECT_EQ(actual[count], kPoison) << "written past the end";
  for (uint32_t g = 0; g < p.group_size; ++g) {
    for (uint32_t i = 0; i < p.matrix.num_pages; ++i) {
      const size_t at = size_t{g} * p.matrix.num_pages + i;
      ASSERT_NEAR(actual[at], expected[at], Tolerance(p, g, i)) << "head " << g << " page " << i;
    }
  }
}

TEST(ScoreTest, EveryImplementationMatchesFloat64) {
  constexpr uint64_t kSeed = 201;
  VARVE_SEED(kSeed);
  for (const ScoreImpl& impl : ScoreImpls()) {
    SCOPED_TRACE(impl.name);
    Rng rng(kSeed);
    for (int i = 0; i < 250; ++i) {
      SCOPED_TRACE("case " + std::to_string(i));
      CheckAgainstReference(RandomProblem(rng), impl.fn);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(ScoreTest, DispatchUsesTheFirstImplementation) {
  constexpr uint64_t kSeed = 202;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  ASSERT_FALSE(ScoreImpls().empty());
  EXPECT_EQ(ScoreImpls().back().name, "portable");
  for (int i = 0; i < 20; ++i) {
    const Problem p = RandomProblem(rng);
    std::vector<float> direct(size_t{p.group_size} * p.matrix.num_pages), dispatched(direct);
    ScoreImpls().front().fn(p.matrix, p.queries.data(), p.group_size, direct.data());
    ScorePages(p.matrix, p.queries.data(), p.group_size, dispatched.data());
    EXPECT_EQ(direct, dispatched);
  }
}

// A query's score does not depend on which other heads share the pass, nor a page's on its
// neighbours: recall in the worker and in the store must select the same pages.
TEST(ScoreTest, EachScoreIsIndependentOfTheBatch) {
  constexpr uint64_t kSeed = 203;
  VARVE_SEED(kSeed);
  for (const ScoreImpl& impl : ScoreImpls()) {
    SCOPED_TRACE(impl.name);
    Rng rng(kSeed);
    for (int i = 0; i < 40; ++i) {
      const Problem p = RandomProblem(rng);
      const DigestMatrix& m = p.matrix;
      if (m.num_pages == 0) continue;
      std::vector<float> all(size_t{p.group_size} * m.num_pages);
      impl.fn(m, p.queries.data(), p.group_size, all.data());
      const uint32_t g = rng.Below(p.group_size);
      const uint32_t page = rng.Below(m.num_pages);
      DigestMatrix one = m;
      one.rows += page * m.row_stride_bytes;
      one.num_pages = 1;
      float alone = 0;
      impl.fn(one, p.queries.data() + size_t{g} * m.head_dim, 1, &alone);
      EXPECT_EQ(alone, all[size_t{g} * m.num_pages + page]);
    }
  }
}

// Merges in float64, from the definition.
std::vector<double> MergeReference(ScoreMerge merge, const std::vector<float>& raw, uint32_t heads,
                                   uint32_t pages, uint32_t head_dim) {
  const bool softmax = merge == ScoreMerge::kSoftmaxMean || merge == ScoreMerge::kSoftmaxMax;
  const bool mean = merge == ScoreMerge::kSoftmaxMean || merge == ScoreMerge::kMean;
  std::vector<double> out(pages, mean ? 0 : -std::numeric_limits<double>::infinity());
  for (uint32_t g = 0; g < heads; ++g) {
    const float* row = raw.data() + size_t{g} * pages;
    const double max = *std::max_element(row, row + pages);
    double total = 0;
    for (uint32_t i = 0; i < pages; ++i) total += std::exp((row[i] - max) / std::sqrt(head_dim));
    for (uint32_t i = 0; i < pages; ++i) {
      const double value =
          softmax ? std::exp((row[i] - max) / std::sqrt(head_dim)) / total : double{row[i]};
      out[i] = mean ? out[i] + value / heads : std::max(out[i], value);
    }
  }
  return out;
}

TEST(MergeScoresTest, MatchesFloat64) {
  constexpr uint64_t kSeed = 204;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 300; ++i) {
    const uint32_t heads = rng.Between(1, 17);
    const uint32_t pages = rng.Between(1, 100);
    const uint32_t head_dim = rng.HeadDim();
    std::vector<float> raw(size_t{heads} * pages);
    for (float& v : raw) v = 40.0f * rng.Normal();
    for (ScoreMerge merge :
         {ScoreMerge::kSoftmaxMean, ScoreMerge::kSoftmaxMax, ScoreMerge::kMax, ScoreMerge::kMean}) {
      SCOPED_TRACE(ScoreMergeName(merge));
      const auto expected = MergeReference(merge, raw, heads, pages, head_dim);
      std::vector<float> scratch = raw;
      std::vector<float> scores(pages + 1, -777.0f);
      MergeScores(merge, scratch.data(), heads, pages, head_dim, scores.data());
      EXPECT_EQ(scores[pages], -777.0f) << "written past the end";
      for (uint32_t p = 0; p < pages; ++p) {
        // Sums of 100s cancel in a mean; a softmax loses what lies below e^-87.
        ASSERT_NEAR(scores[p], expected[p],
                    4e-6 * std::abs(expected[p]) + 3e-5 * (merge == ScoreMerge::kMean) + 1e-37);
      }
    }
  }
}

TEST(MergeScoresTest, PartsOfAGroupGiveWhatTheWholeGives) {
  constexpr uint64_t kSeed = 205;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kHeads = 11, kPages = 37, kHeadDim = 64;
  std::vector<float> raw(kHeads * kPages);
  for (float& v : raw) v = rng.Normal();
  for (ScoreMerge merge :
       {ScoreMerge::kSoftmaxMean, ScoreMerge::kSoftmaxMax, ScoreMerge::kMax, ScoreMerge::kMean}) {
    std::vector<float> whole(kPages), parts(kPages, -777.0f);
    std::vector<float> scratch = raw;
    MergeScores(merge, scratch.data(), kHeads, kPages, kHeadDim, whole.data());
    scratch = raw;
    for (uint32_t done = 0; done < kHeads; done += 4) {
      MergeSomeScores(merge, scratch.data() + done * kPages, std::min(4u, kHeads - done), kHeads,
                      done == 0, kPages, kHeadDim, parts.data());
    }
    EXPECT_EQ(whole, parts) << ScoreMergeName(merge);
  }
}

TEST(MergeScoresTest, ASoftmaxMeanSumsToOne) {
  std::vector<float> raw = {1e30f, 0.0f, -1e30f, 3.0f, 2.0f, 1.0f};
  std::vector<float> scores(3);
  MergeScores(ScoreMerge::kSoftmaxMean, raw.data(), 2, 3, 64, scores.data());
  EXPECT_NEAR(std::accumulate(scores.begin(), scores.end(), 0.0), 1.0, 1e-6);
  EXPECT_NEAR(scores[0], 0.5 + 0.5 * 0.376, 1e-3);
  MergeScores(ScoreMerge::kMax, raw.data(), 2, 0, 64, scores.data());
}

TEST(MergeScoresTest, NamesRoundTrip) {
  for (ScoreMerge merge :
       {ScoreMerge::kSoftmaxMean, ScoreMerge::kSoftmaxMax, ScoreMerge::kMax, ScoreMerge::kMean}) {
    EXPECT_EQ(ScoreMergeByName(ScoreMergeName(merge)), merge);
    EXPECT_NE(ScoreMergeNames().find(ScoreMergeName(merge)), std::string_view::npos);
  }
  EXPECT_EQ(ScoreMergeByName("median"), std::nullopt);
  EXPECT_EQ(ScoreMergeName(static_cast<ScoreMerge>(99)), "?");
}

TEST(KernelTest, ExpIsWithinTwoUlpBelowZero) {
  for (const KernelTable* table : AllKernels()) {
    SCOPED_TRACE(table->name);
    for (int i = 0; i < 86 * 64; ++i) {
      const float x = -static_cast<float>(i) / 64 - 1e-3f;
      float value = x;
      table->exp_and_sum(&value, 1, 0.0f, 1.0f);
      const double expected = std::exp(double{x});
      ASSERT_NEAR(value, expected, 2 * 0x1p-23 * expected) << x;
    }
    float extremes[] = {0.0f, -87.5f, -1e30f, -std::numeric_limits<float>::infinity()};
    EXPECT_EQ(table->exp_and_sum(extremes, 4, 0.0f, 1.0f), 1.0f);
    EXPECT_EQ(extremes[1] + extremes[2] + extremes[3], 0.0f);
  }
}

TEST(KernelTest, RowMaxOfEverySize) {
  constexpr uint64_t kSeed = 205;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (const KernelTable* table : AllKernels()) {
    EXPECT_EQ(table->row_max(nullptr, 0), -std::numeric_limits<float>::infinity());
    for (uint32_t n = 1; n < 70; ++n) {
      const std::vector<float> row = rng.Floats(n);
      EXPECT_EQ(table->row_max(row.data(), n), *std::max_element(row.begin(), row.end())) << n;
    }
  }
}

}  // namespace
}  // namespace varve::page
