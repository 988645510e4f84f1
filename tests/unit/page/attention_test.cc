#include "kvstore/page/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/select.h"
#include "kvstore/page/simd/kernels.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::RandomContext;
using testing::Rng;

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

struct Problem {
  AttentionShape shape;
  RandomContext context;
  std::vector<float> q;
  uint32_t num_pages() const { return static_cast<uint32_t>(context.k.size()); }
  size_t outputs() const { return size_t{shape.group_size} * shape.head_dim; }
};

Problem RandomProblem(Rng& rng, uint32_t max_pages = 12) {
  const uint32_t head_dim = rng.HeadDim();
  const DType dtype = rng.AnyDType();
  const AttentionShape shape{rng.Between(1, 9), head_dim, dtype,
                             1.0f / std::sqrt(static_cast<float>(head_dim))};
  RandomContext context(rng, rng.Between(1, max_pages), rng.PageTokens(), head_dim, dtype);
  std::vector<float> q = rng.Floats(size_t{shape.group_size} * head_dim);
  return {shape, std::move(context), std::move(q)};
}

struct Result {
  std::vector<float> out;
  std::vector<float> lse;
};

Result Attend(const Problem& p, std::span<const PageView> pages) {
  Result r{std::vector<float>(p.outputs(), std::nanf("")),
           std::vector<float>(p.shape.group_size, std::nanf(""))};
  AttendPages(p.shape, p.q.data(), pages, r.out.data(), r.lse.data());
  return r;
}

struct Truth {
  std::vector<double> out;
  std::vector<double> lse;
};

Truth Reference(const Problem& p, std::span<const PageView> pages) {
  Truth t{std::vector<double>(p.outputs()), std::vector<double>(p.shape.group_size)};
  AttendPagesReference(p.shape, p.q.data(), pages, t.out.data(), t.lse.data());
  return t;
}

// 1e-5 of the greatest value that enters the average: outputs near zero are sums that cancel.
void ExpectNear(const Result& actual, const Truth& expected, double greatest_value) {
  for (size_t i = 0; i < expected.out.size(); ++i) {
    ASSERT_NEAR(actual.out[i], expected.out[i], 1e-5 * greatest_value) << "output " << i;
  }
  for (size_t g = 0; g < expected.lse.size(); ++g) {
    ASSERT_NEAR(actual.lse[g], expected.lse[g], 1e-5 * std::max(1.0, std::abs(expected.lse[g])));
  }
}

double GreatestValue(const Problem& p) {
  double greatest = 0;
  for (const auto& v : p.context.v) {
    for (size_t i = 0; i < v.size() / DTypeBytes(p.shape.dtype); ++i) {
      greatest = std::max<double>(greatest, std::abs(LoadAsF32(v.data(), p.shape.dtype, i)));
    }
  }
  return greatest;
}

TEST(AttentionTest, EveryInstructionSetMatchesFloat64) {
  constexpr uint64_t kSeed = 501;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 150; ++i) {
    const Problem p = RandomProblem(rng);
    const auto views = p.context.Views();
    const Truth truth = Reference(p, views);
    for (const KernelTable* table : AllKernels()) {
      SCOPED_TRACE(table->name);
      Result r{std::vector<float>(p.outputs() + 1, 77.0f),
               std::vector<float>(p.shape.group_size + 1, 77.0f)};
      table->attend_pages(p.shape, p.q.data(), views, r.out.data(), r.lse.data());
      EXPECT_EQ(r.out.back(), 77.0f) << "written past the end";
      EXPECT_EQ(r.lse.back(), 77.0f);
      ExpectNear(r, truth, GreatestValue(p));
      if (HasFatalFailure()) return;
    }
  }
}

TEST(AttentionTest, NoPagesAndEmptyPages) {
  constexpr uint64_t kSeed = 502;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  const Problem p = RandomProblem(rng);
  const Result none = Attend(p, {});
  EXPECT_EQ(none.out, std::vector<float>(p.outputs(), 0.0f));
  EXPECT_EQ(none.lse, std::vector<float>(p.shape.group_size, kMinusInf));
  // Pages without tokens change nothing, not even a bit.
  std::vector<PageView> views = p.context.Views();
  const Result all = Attend(p, views);
  views.insert(views.begin(), PageView{});
  views.push_back(PageView{});
  const Result padded = Attend(p, views);
  EXPECT_EQ(padded.out, all.out);
  EXPECT_EQ(padded.lse, all.lse);
}

// Logits of +-10^4 overflow a softmax that does not subtract the maximum.
TEST(AttentionTest, LargeLogitsStayFinite) {
  constexpr uint64_t kSeed = 503;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 30; ++i) {
    Problem p = RandomProblem(rng);
    for (float& v : p.q) v *= 300.0f;
    const auto views = p.context.Views();
    const Result r = Attend(p, views);
    const Truth truth = Reference(p, views);
    for (size_t j = 0; j < r.out.size(); ++j) ASSERT_TRUE(std::isfinite(r.out[j]));
    for (size_t g = 0; g < r.lse.size(); ++g) {
      ASSERT_NEAR(r.lse[g], truth.lse[g], 1e-5 * std::abs(truth.lse[g]) + 1e-2);
    }
  }
}

// Dense attention over the context as one long sequence, in float64, without pages: the independent
// truth of P8.
Truth Dense(const Problem& p) {
  Truth t{std::vector<double>(p.outputs(), 0.0), std::vector<double>(p.shape.group_size)};
  const uint32_t d = p.shape.head_dim;
  for (uint32_t g = 0; g < p.shape.group_size; ++g) {
    std::vector<double> logits;
    for (uint32_t page = 0; page < p.num_pages(); ++page) {
      for (uint32_t token = 0; token < p.context.tokens[page]; ++token) {
        double dot = 0;
        for (uint32_t i = 0; i < d; ++i) {
          dot += double{p.q[g * d + i]} *
                 LoadAsF32(p.context.k[page].data(), p.shape.dtype, size_t{token} * d + i);
        }
        logits.push_back(dot * p.shape.scale);
      }
    }
    const double max = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (double logit : logits) total += std::exp(logit - max);
    t.lse[g] = max + std::log(total);
    size_t at = 0;
    for (uint32_t page = 0; page < p.num_pages(); ++page) {
      for (uint32_t token = 0; token < p.context.tokens[page]; ++token, ++at) {
        for (uint32_t i = 0; i < d; ++i) {
          t.out[g * d + i] +=
              std::exp(logits[at] - t.lse[g]) *
              LoadAsF32(p.context.v[page].data(), p.shape.dtype, size_t{token} * d + i);
        }
      }
    }
  }
  return t;
}

// P8: all pages, in any order, cut into any parts that are merged by lse, give dense attention.
TEST(AttentionPropertyTest, AllPagesInAnyOrderAndSplitEqualDense) {
  constexpr uint64_t kSeed = 504;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 100; ++i) {
    const Problem p = RandomProblem(rng);
    const Truth dense = Dense(p);
    const double greatest = GreatestValue(p);
    std::vector<PageView> views = p.context.Views();
    ExpectNear(Attend(p, views), dense, greatest);
    std::shuffle(views.begin(), views.end(), rng.engine());
    ExpectNear(Attend(p, views), dense, greatest);
    Result merged = Attend(p, {});
    for (size_t begin = 0; begin < views.size();) {
      const size_t count = rng.Below(static_cast<uint32_t>(views.size() - begin) + 1);
      const Result part = Attend(p, std::span(views).subspan(begin, count));
      MergeAttention(p.shape.group_size, p.shape.head_dim, merged.out.data(), merged.lse.data(),
                     part.out.data(), part.lse.data());
      begin += count;
    }
    ExpectNear(merged, dense, greatest);
    if (HasFatalFailure()) return;
  }
}

TEST(MergeAttentionTest, TwoEmptyPartsStayEmpty) {
  std::vector<float> out(64, 0.0f), other(64, 0.0f);
  std::vector<float> lse(2, kMinusInf), other_lse(2, kMinusInf);
  MergeAttention(2, 32, out.data(), lse.data(), other.data(), other_lse.data());
  EXPECT_EQ(out, std::vector<float>(64, 0.0f));
  EXPECT_EQ(lse, std::vector<float>(2, kMinusInf));
}

// P9: where a page lies does not change a bit of the output.
TEST(AttentionPropertyTest, OutputIsInvariantToPlacement) {
  constexpr uint64_t kSeed = 505;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 60; ++i) {
    const Problem p = RandomProblem(rng);
    const auto views = p.context.Views();
    const Result expected = Attend(p, views);
    // A pool with a random free order and a base that no vector is aligned to; free slots hold NaN
    // patterns.
    const size_t part = p.context.k[0].size();
    std::vector<uint32_t> slots(p.num_pages() + 5);
    std::iota(slots.begin(), slots.end(), 0u);
    std::shuffle(slots.begin(), slots.end(), rng.engine());
    std::vector<std::byte> pool(slots.size() * 2 * part + 64, std::byte{0xff});
    std::byte* base = pool.data() + 2 * rng.Below(32);
    std::vector<PageView> placed;
    for (uint32_t page = 0; page < p.num_pages(); ++page) {
      std::byte* slot = base + slots[page] * 2 * part;
      const size_t valid = p.context.tokens[page] * p.shape.head_dim * DTypeBytes(p.shape.dtype);
      std::memcpy(slot, views[page].k, valid);  // past the valid tokens the slot stays poisoned
      std::memcpy(slot + part, views[page].v, valid);
      placed.push_back({slot, slot + part, views[page].tokens});
    }
    const Result actual = Attend(p, placed);
    EXPECT_EQ(actual.out, expected.out);
    EXPECT_EQ(actual.lse, expected.lse);
  }
}

// P20: one page table per KV head with equal lists gives what one table per layer gives.
TEST(AttentionPropertyTest, EqualPerHeadTablesEqualALayerTable) {
  constexpr uint64_t kSeed = 506;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 20; ++i) {
    const Geometry g{1, rng.Between(1, 4), 8, rng.HeadDim(), rng.PageTokens(), rng.AnyDType()};
    const uint32_t blocks = rng.Between(2, 8);
    std::vector<std::vector<std::byte>> objects;
    for (uint32_t b = 0; b < blocks; ++b) {
      objects.push_back(
          testing::RandomElements(rng, g.object_bytes() / DTypeBytes(g.dtype), g.dtype));
    }
    const auto page = [&](uint32_t block, uint32_t head) {
      const std::byte* at = objects[block].data() + head * g.page_bytes();
      return PageView{at, at + g.part_bytes(), g.page_tokens};
    };
    std::vector<uint32_t> layer_table = {0, blocks - 1};
    std::vector<std::vector<uint32_t>> head_tables(g.num_kv_heads, layer_table);
    const AttentionShape shape{2, g.head_dim, g.dtype, 0.1f};
    for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
      std::vector<PageView> by_layer, by_head;
      for (uint32_t block : layer_table) by_layer.push_back(page(block, head));
      // The head's own pages, packed as a per-head pool packs them.
      std::vector<std::vector<std::byte>> pool;
      for (uint32_t block : head_tables[head]) {
        const auto* k = static_cast<const std::byte*>(page(block, head).k);
        pool.emplace_back(k, k + g.page_bytes());
      }
      for (const auto& slot : pool) {
        by_head.push_back({slot.data(), slot.data() + g.part_bytes(), g.page_tokens});
      }
      const std::vector<float> q = rng.Floats(2 * g.head_dim);
      std::vector<float> a(2 * g.head_dim), b(a), lse_a(2), lse_b(2);
      AttendPages(shape, q.data(), by_layer, a.data(), lse_a.data());
      AttendPages(shape, q.data(), by_head, b.data(), lse_b.data());
      EXPECT_EQ(a, b);
      EXPECT_EQ(lse_a, lse_b);
    }
  }
}

// A query's mass does not depend on which other heads share the pass, nor a page's on its
// neighbours.
TEST(PageLogMassTest, EachMassIsIndependentOfTheBatch) {
  constexpr uint64_t kSeed = 508;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 30; ++i) {
    const Problem p = RandomProblem(rng);
    const std::vector<PageView> views = p.context.Views();
    for (const KernelTable* table : AllKernels()) {
      SCOPED_TRACE(table->name);
      std::vector<float> all(p.shape.group_size * views.size());
      table->page_log_mass(p.shape, p.q.data(), views, all.data());
      const uint32_t g = rng.Below(p.shape.group_size);
      const uint32_t page = rng.Below(static_cast<uint32_t>(views.size()));
      AttentionShape one = p.shape;
      one.group_size = 1;
      float alone = 0;
      table->page_log_mass(one, p.q.data() + size_t{g} * one.head_dim,
                           std::span(views).subspan(page, 1), &alone);
      EXPECT_EQ(alone, all[g * views.size() + page]);
    }
  }
}

// A scale may be negative, or nothing; the tokens of the last quad may be fewer than four.
TEST(PageLogMassTest, AnyScaleAndAnyNumberOfTokens) {
  constexpr uint64_t kSeed = 509;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (uint32_t tokens = 0; tokens <= 32; ++tokens) {
    for (float scale : {-0.2f, 0.0f, 0.2f}) {
      Problem p = RandomProblem(rng, 1);
      p.shape.scale = scale;
      p.context = RandomContext(rng, 1, 32, p.shape.head_dim, p.shape.dtype);
      // Past the valid tokens there may be anything.
      const size_t valid = size_t{tokens} * p.shape.head_dim * DTypeBytes(p.shape.dtype);
      std::fill(p.context.k[0].begin() + valid, p.context.k[0].end(), std::byte{0xff});
      const PageView view{p.context.k[0].data(), p.context.v[0].data(), tokens};
      const Truth truth = Reference(p, std::span(&view, 1));
      for (const KernelTable* table : AllKernels()) {
        SCOPED_TRACE(table->name);
        std::vector<float> mass(p.shape.group_size);
        table->page_log_mass(p.shape, p.q.data(), std::span(&view, 1), mass.data());
        for (uint32_t g = 0; g < p.shape.group_size; ++g) {
          if (tokens == 0) {
            EXPECT_EQ(mass[g], kMinusInf);
          } else {
            ASSERT_NEAR(mass[g], truth.lse[g], 1e-5 * std::max(1.0, std::abs(truth.lse[g])));
          }
        }
      }
    }
  }
}

TEST(PageLogMassTest, EachPageIsItsOwnLogSumExp) {
  constexpr uint64_t kSeed = 507;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 60; ++i) {
    const Problem p = RandomProblem(rng);
    std::vector<PageView> views = p.context.Views();
    views.push_back(PageView{});
    for (const KernelTable* table : AllKernels()) {
      SCOPED_TRACE(table->name);
      std::vector<float> mass(p.shape.group_size * views.size() + 1, 88.0f);
      table->page_log_mass(p.shape, p.q.data(), views, mass.data());
      EXPECT_EQ(mass.back(), 88.0f);
      for (size_t page = 0; page < views.size(); ++page) {
        const Truth truth = Reference(p, std::span(views).subspan(page, 1));
        for (uint32_t g = 0; g < p.shape.group_size; ++g) {
          const float actual = mass[g * views.size() + page];
          if (views[page].tokens == 0) {
            EXPECT_EQ(actual, kMinusInf);
          } else {
            ASSERT_NEAR(actual, truth.lse[g], 1e-5 * std::max(1.0, std::abs(truth.lse[g])));
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace varve::page
