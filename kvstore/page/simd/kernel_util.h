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
// lo], or q against [mean]; zero from the row's end to the next multiple of 32 elements.
void MakeScoreWeights(DigestKind kind, const float* queries, uint32_t heads, uint32_t head_dim,
                      float* weights);

// Walks the cache lines of the digest rows in address order, a fixed distance ahead of the rows in
// work. Kernels read several rows side by side; prefetched in that interleaved order, a DRAM-bound
// scan measured 15 % slower. A prefetch never faults, so running past the last row is harmless.
class RowPrefetcher {
 public:
  RowPrefetcher(const std::byte* row, uint32_t row_bytes, size_t stride)
      : row_bytes_(row_bytes), stride_(stride) {
    const size_t rows_ahead = kAheadBytes / (stride == 0 ? 1 : stride);
    row_ = row + (rows_ahead < 8 ? 8 : rows_ahead) * stride;
  }

  // Keeps to one line that is in cache already: what Next() costs, without its effect.
  static RowPrefetcher Idle(const std::byte* line) { return RowPrefetcher(line); }

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
  explicit RowPrefetcher(const std::byte* line) : row_(line), row_bytes_(0), stride_(0) {}

  static constexpr size_t kAheadBytes = 8192;
  const std::byte* row_;
  size_t offset_ = 0;
  size_t row_bytes_;
  size_t stride_;
};

}  // namespace varve::page
