// What the kernel bodies share across instruction sets. Internal to page/simd.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvstore/page/digest/score.h"

namespace varve::page {

constexpr uint32_t kMaxPageTokens = 32;
constexpr uint32_t kMaxScoreElements = 512;  // two vectors of 256
constexpr uint32_t kScoreHeads = 16;         // query heads per sweep over the digests

// Weight row of each head, kMaxScoreElements floats apart: [max(q, 0) | min(q, 0)] against [hi |
// lo], q against [mean], or [q | |q|] against [c | r]; zero from the row's end to the next multiple
// of 32 elements.
void MakeScoreWeights(DigestKind kind, const float* queries, uint32_t heads, uint32_t head_dim,
                      float* weights);

// How far ahead of the rows in work to prefetch: whole rows, about 8 KiB of them.
inline size_t PrefetchDistance(size_t row_stride_bytes) {
  constexpr size_t kBytes = 8192;
  const size_t rows = kBytes / (row_stride_bytes == 0 ? 1 : row_stride_bytes);
  return (rows < 8 ? 8 : rows) * row_stride_bytes;
}

// One line far ahead, once per tile of rows: on 4 KiB pages this has the address translation ready
// when RowPrefetcher gets there, without which its prefetches stall (measured: 0.83 of the read
// bandwidth without, 0.94 with).
[[gnu::always_inline]] inline void PrefetchTranslation(const std::byte* row) {
  __builtin_prefetch(row + 32768);
}

// Walks the cache lines of rows in address order. Kernels read several rows side by side;
// prefetched in that interleaved order, a DRAM-bound scan measured 15 % slower. A prefetch never
// faults, so running past the last row is harmless.
class RowPrefetcher {
 public:
  RowPrefetcher(const std::byte* row, size_t row_bytes, size_t stride)
      : row_(row), row_bytes_(row_bytes), stride_(stride) {}
  // Keeps to one line that is in cache already: what Next() costs, without its effect.
  static RowPrefetcher Idle(const std::byte* line) { return RowPrefetcher(line, 0, 0); }

  [[gnu::always_inline]] void Next() {
    __builtin_prefetch(row_ + offset_);
    offset_ += kLineBytes;
    if (offset_ >= row_bytes_) {
      offset_ = 0;
      row_ += stride_;
    }
  }

  static constexpr size_t kLineBytes = 64;

 private:
  const std::byte* row_;
  size_t offset_ = 0;
  size_t row_bytes_;
  size_t stride_;
};

}  // namespace varve::page
