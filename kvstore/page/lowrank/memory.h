// What a context of low-rank keys takes of a worker's memory, by kind. Exact sums of bytes; no
// padding, no allocator. Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvstore/page/dtype.h"

namespace varve::page {

struct LowRankShape {
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t rank = 160;
  uint32_t chunk_tokens = 8;
  DType dtype = DType::kBF16;        // of keys, values, and landmarks
  DType rows_dtype = DType::kBF16;   // of A
  DType basis_dtype = DType::kBF16;  // of B
  uint32_t id_bytes = 4;             // of a landmark's chunk id
  // Per KV head, kept exact.
  uint32_t outlier_chunks = 48;
  uint32_t budget_tokens = 2048;  // the hot slots
  uint32_t window_tokens = 160;   // recent and generated tokens that are in no chunk
};

// Of one layer.
struct LowRankBytes {
  // Grow with the tokens.
  size_t rows = 0;       // A: rank per token
  size_t landmarks = 0;  // one mean per chunk and KV head
  size_t ids = 0;        // of the landmarks
  // Do not.
  size_t basis = 0;     // B
  size_t outliers = 0;  // exact K and V
  size_t hot = 0;       // K and V of the selection
  size_t window = 0;    // exact K and V

  size_t growing() const { return rows + landmarks + ids; }
  size_t constant() const { return basis + outliers + hot + window; }
  size_t total() const { return growing() + constant(); }
};

// tokens: all of the context. The landmark rows of outliers are counted too, as what is not yet an
// outlier needs one.
LowRankBytes LowRankMemory(const LowRankShape& shape, uint64_t tokens);

}  // namespace varve::page
