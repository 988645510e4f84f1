// What the kernel bodies share across instruction sets. Internal to page/simd.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvstore/page/digest/score.h"

namespace varve::page {

constexpr uint32_t kMaxPageTokens = 32;
constexpr uint32_t kMaxScoreElements = 512;  // two vectors of 256
constexpr uint32_t kScoreHeads = 16;         // query heads per sweep over the digests

// Weight row of each head, kMaxScoreElements floats apart: [max(q, 0) | min(q, 0)] against [hi | lo], or q against
// [mean]; zero from the row's end to the next multiple of 32 elements.
void MakeScoreWeights(DigestKind kind, const float* queries, uint32_t heads, uint32_t head_dim,
                      float* weights);

// How far ahead of the row in work to prefetch: whole rows, about 4 KiB of digests. A prefetch never faults.
inline size_t PrefetchDistance(size_t row_stride_bytes) {
  const size_t rows = 4096 / (row_stride_bytes == 0 ? 1 : row_stride_bytes);
  return (rows < 4 ? 4 : rows) * row_stride_bytes;
}

}  // namespace varve::page
