#include "kvstore/page/lowrank/memory.h"

namespace varve::page {

LowRankBytes LowRankMemory(const LowRankShape& shape, uint64_t tokens) {
  const size_t width = size_t{shape.num_kv_heads} * shape.head_dim;
  const size_t key_bytes = width * DTypeBytes(shape.dtype);
  const size_t chunks = tokens / shape.chunk_tokens;
  LowRankBytes bytes;
  bytes.rows = tokens * shape.rank * DTypeBytes(shape.rows_dtype);
  bytes.landmarks = chunks * key_bytes;
  bytes.ids = chunks * shape.num_kv_heads * shape.id_bytes;
  bytes.basis = width * shape.rank * DTypeBytes(shape.basis_dtype);
  bytes.outliers = 2 * key_bytes * shape.outlier_chunks * shape.chunk_tokens;
  bytes.hot = 2 * key_bytes * shape.budget_tokens;
  bytes.window = 2 * key_bytes * shape.window_tokens;
  return bytes;
}

}  // namespace varve::page
