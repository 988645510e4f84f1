// Keys of planted rank, and the pieces that tests of low-rank keys share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "kvstore/page/lowrank/gram.h"
#include "kvstore/page/lowrank/low_rank.h"
#include "tests/unit/page/test_data.h"

namespace varve::page::testing {

// `count` orthonormal vectors of `width` numbers (Gram-Schmidt, twice, in fp64).
inline std::vector<std::vector<double>> Orthonormal(Rng& rng, uint32_t count, uint32_t width) {
  std::vector<std::vector<double>> vectors;
  while (vectors.size() < count) {
    std::vector<double> v(width);
    for (double& x : v) x = rng.Normal();
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto& other : vectors) {
        const double dot = std::inner_product(v.begin(), v.end(), other.begin(), 0.0);
        for (uint32_t i = 0; i < width; ++i) v[i] -= dot * other[i];
      }
    }
    const double norm = std::sqrt(std::inner_product(v.begin(), v.end(), v.begin(), 0.0));
    for (double& x : v) x /= norm;
    vectors.push_back(std::move(v));
  }
  return vectors;
}

// X [tokens][width] with the given singular values.
inline std::vector<float> PlantedKeys(Rng& rng, uint32_t tokens, uint32_t width,
                                      const std::vector<double>& singular) {
  const auto rank = static_cast<uint32_t>(singular.size());
  const auto left = Orthonormal(rng, rank, tokens);
  const auto right = Orthonormal(rng, rank, width);
  std::vector<float> keys(size_t{tokens} * width);
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t i = 0; i < width; ++i) {
      double sum = 0;
      for (uint32_t j = 0; j < rank; ++j) sum += left[j][t] * singular[j] * right[j][i];
      keys[size_t{t} * width + i] = static_cast<float>(sum);
    }
  }
  return keys;
}

// Singular values that fall off like those of real keys: a few large ones and a long tail.
inline std::vector<double> FallingSpectrum(uint32_t count) {
  std::vector<double> values(count);
  for (uint32_t j = 0; j < count; ++j) values[j] = 100.0 / std::pow(1.0 + j, 0.8);
  return values;
}

inline std::vector<double> GramOf(const std::vector<float>& keys, uint32_t tokens, uint32_t width) {
  GramAccumulator gram(width);
  EXPECT_EQ(gram.Append(keys.data(), tokens, DType::kF32), std::nullopt);
  return gram.Matrix();
}

inline Subspace SubspaceOf(const std::vector<float>& keys, uint32_t tokens, uint32_t heads,
                           uint32_t head_dim, uint32_t rank, DType dtype = DType::kF32) {
  Subspace subspace;
  EXPECT_EQ(MakeSubspace(GramOf(keys, tokens, heads * head_dim), tokens, heads, head_dim, {rank, 0},
                         dtype, subspace),
            std::nullopt);
  return subspace;
}

// Where each of a number of rows begins.
inline std::vector<const std::byte*> RowPointers(const std::vector<std::byte>& rows,
                                                 size_t row_bytes) {
  std::vector<const std::byte*> pointers;
  for (size_t at = 0; at + row_bytes <= rows.size(); at += row_bytes) {
    pointers.push_back(rows.data() + at);
  }
  return pointers;
}

// Rows of all keys.
inline std::vector<std::byte> ProjectAll(const Subspace& subspace, const std::vector<float>& keys,
                                         DType rows_dtype, ProjectionEnergy* energy = nullptr) {
  const auto tokens = static_cast<uint32_t>(keys.size() / subspace.width());
  std::vector<std::byte> rows(tokens * RowBytes(subspace, rows_dtype));
  EXPECT_EQ(Project(subspace, keys.data(), tokens, DType::kF32, rows_dtype, rows.data(), energy),
            std::nullopt);
  return rows;
}

// Keys [token][kv head][head_dim] from rows.
inline std::vector<float> RebuildAll(const Subspace& subspace, const std::vector<std::byte>& rows,
                                     DType rows_dtype) {
  const auto pointers = RowPointers(rows, RowBytes(subspace, rows_dtype));
  std::vector<float> keys(pointers.size() * subspace.width());
  for (uint32_t h = 0; h < subspace.num_kv_heads; ++h) {
    Rebuild(subspace, h, pointers, rows_dtype, DType::kF32, keys.data() + h * subspace.head_dim,
            subspace.width() * sizeof(float));
  }
  return keys;
}

inline double SquaredDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = double{a[i]} - b[i];
    sum += difference * difference;
  }
  return sum;
}

inline double SquaredNorm(const std::vector<float>& a) {
  return SquaredDifference(a, std::vector<float>(a.size()));
}

}  // namespace varve::page::testing
