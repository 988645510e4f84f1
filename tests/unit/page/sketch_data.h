// What a sketch says of its keys, by its definition in float64 and without any of page's own code
// for it, and what the integers of a query are.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/digest/sketch.h"
#include "tests/unit/page/digest_pages.h"

namespace varve::page::testing {

inline uint32_t BlockOf(uint32_t head_dim) {
  uint32_t n = 1;
  while (head_dim % (2 * n) == 0) n *= 2;
  return n;
}

// Blocks of the Hadamard matrix, times `factor`.
inline std::vector<double> Rotated(const std::vector<double>& x, double factor) {
  const uint32_t n = BlockOf(static_cast<uint32_t>(x.size()));
  std::vector<double> out(x.size());
  for (uint32_t i = 0; i < x.size(); ++i) {
    for (uint32_t j = 0; j < n; ++j) {
      const double value = x[i / n * n + j] * factor;
      out[i] += std::popcount(i % n & j) % 2 == 0 ? value : -value;
    }
  }
  return out;
}

struct SketchToken {
  double scale, mean;
  std::vector<int> codes;
  double Value(uint32_t c, uint32_t bits) const {
    return mean + scale * (2 * codes[c] - ((1 << bits) - 1));
  }
};

inline SketchToken DecodeToken(DigestKind kind, const void* sketch, uint32_t tokens, uint32_t t,
                               uint32_t head_dim) {
  const uint32_t bits = Info(kind).sketch_bits;
  const uint32_t words = (head_dim * bits + 31) / 32;
  const auto* bytes = static_cast<const uint8_t*>(sketch);
  const auto half = [&](size_t at) {
    return BF16ToF32(static_cast<uint16_t>(bytes[at] | bytes[at + 1] << 8));
  };
  const size_t tail = size_t{4} * words * tokens;
  SketchToken token{half(tail + 2 * t), half(tail + 2 * (tokens + t)), {}};
  for (uint32_t c = 0; c < head_dim; ++c) {
    const uint32_t in_word = c % (32 / bits);
    const uint8_t byte = bytes[4 * (size_t{c / (32 / bits)} * tokens + t) + in_word % 4];
    token.codes.push_back(byte >> in_word / 4 * bits & ((1 << bits) - 1));
  }
  return token;
}

// k' of a token.
inline std::vector<double> RotatedKey(const Page& page, uint32_t t) {
  std::vector<double> key(page.head_dim);
  for (uint32_t c = 0; c < page.head_dim; ++c) key[c] = Key(page, t, c);
  return Rotated(key, 1.0 / BlockOf(page.head_dim));
}

// q' and its integers.
struct SketchQuery {
  double step, sum;
  std::vector<double> rotated;
  std::vector<int> integers;
};
inline SketchQuery DecodeQuery(DigestKind kind, const float* query, uint32_t head_dim) {
  SketchQueries quantised;
  QuantiseQueries(query, 1, head_dim, Info(kind).sketch_bits, 1.0f, quantised);
  SketchQuery q{quantised.step[0], quantised.sum[0], {}, {}};
  q.rotated = Rotated(std::vector<double>(query, query + head_dim), 1.0);
  for (uint32_t c = 0; c < head_dim; ++c) {
    q.integers.push_back(static_cast<int8_t>(quantised.quads[0][c / 4] >> c % 4 * 8));
  }
  return q;
}

// 2 D - (2^b - 1) S.
inline int Levels(const SketchQuery& q, const SketchToken& token, uint32_t bits) {
  int sum = 0;
  for (size_t c = 0; c < q.integers.size(); ++c) {
    sum += q.integers[c] * (2 * token.codes[c] - ((1 << bits) - 1));
  }
  return sum;
}

// Of the score of a page, as score.h says.
inline double SketchTolerance(const DigestMatrix& m, const float* query, const std::byte* row) {
  SketchQueries q;
  QuantiseQueries(query, 1, m.head_dim, Info(m.kind).sketch_bits, 1.0f, q);
  double integers = 0;
  for (uint32_t c = 0; c < m.head_dim; ++c) {
    integers += std::abs(static_cast<int8_t>(q.quads[0][c / 4] >> c % 4 * 8));
  }
  const uint32_t top = (1u << Info(m.kind).sketch_bits) - 1;
  const std::byte* tail = row + size_t{4} * SketchWords(m.kind, m.head_dim) * m.page_tokens;
  double greatest = 0;
  for (uint32_t t = 0; t < m.page_tokens; ++t) {
    const double scale = LoadAsF32(tail, DType::kBF16, t);
    const double mean = LoadAsF32(tail, DType::kBF16, m.page_tokens + t);
    greatest = std::max(greatest, std::abs(mean * q.sum[0]) + scale * top * integers);
  }
  return 0x1p-13 * std::sqrt(m.head_dim) +
         0x1p-20 * (2 * std::sqrt(m.head_dim) + q.step[0] * greatest);
}

}  // namespace varve::page::testing
