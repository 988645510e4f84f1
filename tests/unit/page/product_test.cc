// The products behind low-rank keys, kernel by kernel.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kvstore/page/simd/kernels.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;

struct RowProblem {
  std::vector<std::byte> rows;
  std::vector<const std::byte*> pointers;
  std::vector<std::byte> elements;
  DType dtype;
  MatrixView matrix;
};

RowProblem RandomRows(Rng& rng, uint32_t count, uint32_t depth, uint32_t cols) {
  RowProblem p;
  p.dtype = rng.AnyDType();
  const DType matrix_dtype = rng.AnyDType();
  p.rows = testing::RandomElements(rng, size_t{count} * depth, p.dtype);
  for (uint32_t t = 0; t < count; ++t) {
    p.pointers.push_back(p.rows.data() + size_t{t} * depth * DTypeBytes(p.dtype));
  }
  std::shuffle(p.pointers.begin(), p.pointers.end(), rng.engine());
  p.elements = testing::RandomElements(rng, size_t{depth} * cols, matrix_dtype);
  p.matrix = {p.elements.data(), matrix_dtype, depth, cols};
  return p;
}

TEST(ProductTest, RowsTimesMatrixMatchFloat64) {
  constexpr uint64_t kSeed = 911;
  VARVE_SEED(kSeed);
  for (const KernelTable* table : AllKernels()) {
    SCOPED_TRACE(table->name);
    Rng rng(kSeed);
    for (int i = 0; i < 60; ++i) {
      SCOPED_TRACE("case " + std::to_string(i));
      const uint32_t count = rng.Between(1, 40), depth = rng.Between(1, i % 8 == 0 ? 700 : 170);
      const uint32_t cols = 8 * rng.Between(1, 20), stride = cols + rng.Below(5);
      const RowProblem p = RandomRows(rng, count, depth, cols);
      constexpr float kPoison = -12345.0f;
      std::vector<float> out(size_t{count} * stride, kPoison);
      table->multiply_rows(p.pointers, p.dtype, p.matrix, out.data(), stride);
      for (uint32_t t = 0; t < count; ++t) {
        for (uint32_t c = 0; c < stride; ++c) {
          const float actual = out[size_t{t} * stride + c];
          if (c >= cols) {
            ASSERT_EQ(actual, kPoison) << "written between rows";
            continue;
          }
          double sum = 0, magnitude = 0;
          for (uint32_t k = 0; k < depth; ++k) {
            const double product = double{LoadAsF32(p.pointers[t], p.dtype, k)} *
                                   LoadAsF32(p.elements.data(), p.matrix.dtype, k * cols + c);
            sum += product;
            magnitude += std::abs(product);
          }
          ASSERT_NEAR(actual, sum, depth * 0x1p-23 * magnitude + 1e-30) << t << " " << c;
        }
      }
    }
  }
}

TEST(ProductTest, ARowsProductDependsOnThatRowAlone) {
  constexpr uint64_t kSeed = 912;
  VARVE_SEED(kSeed);
  for (const KernelTable* table : AllKernels()) {
    SCOPED_TRACE(table->name);
    Rng rng(kSeed);
    for (int i = 0; i < 20; ++i) {
      const uint32_t count = rng.Between(1, 50), depth = rng.Between(1, 300);
      const uint32_t cols = 8 * rng.Between(1, 16);
      RowProblem p = RandomRows(rng, count, depth, cols);
      std::vector<float> all(size_t{count} * cols), one(cols);
      table->multiply_rows(p.pointers, p.dtype, p.matrix, all.data(), cols);
      for (uint32_t t = 0; t < count; ++t) {
        table->multiply_rows({&p.pointers[t], 1}, p.dtype, p.matrix, one.data(), cols);
        ASSERT_TRUE(std::equal(one.begin(), one.end(), all.begin() + t * cols)) << "row " << t;
      }
    }
  }
}

// Elements need no alignment, the last ones after whole vectors neither (a sanitizer sees it).
TEST(ProductTest, RowsMayLieAnywhere) {
  constexpr uint64_t kSeed = 916;
  VARVE_SEED(kSeed);
  for (const KernelTable* table : AllKernels()) {
    SCOPED_TRACE(table->name);
    Rng rng(kSeed);
    for (const DType dtype : testing::kAllDTypes) {
      for (uint32_t depth = 1; depth < 70; ++depth) {
        const uint32_t cols = 8 * rng.Between(1, 9);
        const auto row = testing::RandomElements(rng, depth, dtype);
        const auto elements = testing::RandomElements(rng, size_t{depth} * cols, dtype);
        const auto moved = [](const std::vector<std::byte>& bytes) {
          std::vector<std::byte> odd(1);
          odd.insert(odd.end(), bytes.begin(), bytes.end());
          return odd;
        };
        const auto odd_row = moved(row), odd_elements = moved(elements);
        const std::byte* at = row.data();
        const std::byte* odd_at = odd_row.data() + 1;
        std::vector<float> expected(cols), actual(cols);
        table->multiply_rows({&at, 1}, dtype, {elements.data(), dtype, depth, cols},
                             expected.data(), cols);
        table->multiply_rows({&odd_at, 1}, dtype, {odd_elements.data() + 1, dtype, depth, cols},
                             actual.data(), cols);
        ASSERT_EQ(actual, expected) << depth;

        std::vector<float> values(depth);
        table->to_floats(odd_at, dtype, depth, values.data());
        std::vector<std::byte> stored(1 + row.size());
        table->from_floats(values.data(), depth, dtype, stored.data() + 1);
        ASSERT_EQ(stored, odd_row) << depth;
      }
    }
  }
}

TEST(ProductTest, ProjectionsMatchFloat64AndDependOnTheirRowAlone) {
  constexpr uint64_t kSeed = 913;
  VARVE_SEED(kSeed);
  for (const KernelTable* table : AllKernels()) {
    SCOPED_TRACE(table->name);
    Rng rng(kSeed);
    for (int i = 0; i < 40; ++i) {
      SCOPED_TRACE("case " + std::to_string(i));
      const uint32_t count = rng.Between(1, 20), heads = rng.Between(1, 4);
      const uint32_t head_dim = 8 * rng.Between(1, 20), rank = rng.Between(1, 30);
      const uint32_t width = heads * head_dim;
      const DType dtype = rng.AnyDType();
      const auto basis = testing::RandomElements(rng, size_t{width} * rank, dtype);
      const auto x = rng.Floats(size_t{count} * width);
      const BasisView view = {basis.data(), dtype, heads, rank, head_dim};
      std::vector<float> out(size_t{count} * rank), one(rank);
      table->project_rows(x.data(), count, view, out.data());
      for (uint32_t t = 0; t < count; ++t) {
        for (uint32_t j = 0; j < rank; ++j) {
          double sum = 0, magnitude = 0;
          for (uint32_t c = 0; c < width; ++c) {
            const size_t at = (size_t{c / head_dim} * rank + j) * head_dim + c % head_dim;
            const double product =
                double{x[size_t{t} * width + c]} * LoadAsF32(basis.data(), dtype, at);
            sum += product;
            magnitude += std::abs(product);
          }
          ASSERT_NEAR(out[size_t{t} * rank + j], sum, width * 0x1p-23 * magnitude + 1e-30);
        }
        table->project_rows(x.data() + size_t{t} * width, 1, view, one.data());
        ASSERT_TRUE(std::equal(one.begin(), one.end(), out.begin() + t * rank)) << "row " << t;
      }
    }
  }
}

TEST(ProductTest, Float64DotsHaveTheSameBitsOnEveryCpu) {
  constexpr uint64_t kSeed = 915;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (uint32_t count = 0; count < 300; ++count) {
    const auto a = rng.Floats(count), b = rng.Floats(count);
    double parts[8] = {}, magnitude = 0, sum = 0;
    for (uint32_t i = 0; i < count; ++i) {
      const double product = double{a[i]} * b[i];
      parts[i % 8] += product;
      sum += product;
      magnitude += std::abs(product);
    }
    const double expected = ((parts[0] + parts[4]) + (parts[2] + parts[6])) +
                            ((parts[1] + parts[5]) + (parts[3] + parts[7]));
    EXPECT_NEAR(expected, sum, 1e-13 * magnitude);
    for (const KernelTable* table : AllKernels()) {
      EXPECT_EQ(table->dot_f64(a.data(), b.data(), count), expected) << table->name << " " << count;
    }
  }
}

TEST(ProductTest, ConversionsAreThoseOfTheDtypes) {
  constexpr uint64_t kSeed = 914;
  VARVE_SEED(kSeed);
  for (const KernelTable* table : AllKernels()) {
    SCOPED_TRACE(table->name);
    Rng rng(kSeed);
    for (const DType dtype : testing::kAllDTypes) {
      for (uint32_t count = 0; count < 70; ++count) {
        std::vector<float> values = rng.Floats(count);
        for (float& v : values) {
          if (rng.Chance(0.1)) v *= 1e-6f;
          if (rng.Chance(0.1)) v = (v < 0 ? -1.0f : 1.0f) * 1e38f * (3.0f + rng.Below(40) / 100.0f);
        }
        std::vector<std::byte> stored(count * DTypeBytes(dtype) + 1, std::byte{0x5a});
        table->from_floats(values.data(), count, dtype, stored.data());
        EXPECT_EQ(stored.back(), std::byte{0x5a}) << "written past the end";
        std::vector<float> back(count + 1, -7.0f);
        table->to_floats(stored.data(), dtype, count, back.data());
        EXPECT_EQ(back[count], -7.0f) << "written past the end";
        for (uint32_t i = 0; i < count; ++i) {
          const float bounded =
              std::clamp(values[i], -GreatestFinite(dtype), GreatestFinite(dtype));
          std::array<std::byte, 4> expected;
          StoreF32(expected.data(), dtype, 0, bounded);
          ASSERT_EQ(back[i], LoadAsF32(expected.data(), dtype, 0)) << values[i];
          ASSERT_TRUE(std::isfinite(back[i]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace varve::page
