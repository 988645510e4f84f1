// Digest scoring. Internal to page/simd; include inside the namespace of one kernel table.
//
// A score is one dot product of the whole digest row with a weight row made from the query
// (score.h), and the scan is bound by the bytes of the rows: each row is read once for all query
// heads, four heads at a time from registers.

// Dot products of kRows rows with kHeads weight rows, one vector wide.
template <DType T, uint32_t kRows, uint32_t kHeads, bool kHalf>
VARVE_FN void ScoreStep(const std::byte* const* rows, size_t offset, const float* weights,
                        size_t weight_stride, Vec (&acc)[kHeads][kRows]) {
  Vec row[kRows];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; ++r) row[r] = LoadRow<T, kHalf>(rows[r] + offset);
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    const Vec w = LoadF32(weights + h * weight_stride);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) acc[h][r] = MulAdd(row[r], w, acc[h][r]);
  }
}

template <DType T, uint32_t kRows, uint32_t kHeads>
VARVE_KERNEL void ScoreTile(const std::byte* const* rows, uint32_t elements, const float* weights,
                            RowPrefetcher& prefetcher, float* raw, size_t raw_stride) {
  constexpr size_t element = DTypeBytes(T);
  constexpr uint32_t kLineElements = RowPrefetcher::kLineBytes / element;
  Vec acc[kHeads][kRows];
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) acc[h][r] = Set(0);
  }
  uint32_t i = 0;
  for (; i + kLanes <= elements; i += kLanes) {
    if (i % kLineElements == 0) {
#pragma GCC unroll 4
      for (uint32_t r = 0; r < kRows; ++r) prefetcher.Next();
    }
    ScoreStep<T, kRows, kHeads, false>(rows, i * element, weights + i, kMaxScoreElements, acc);
  }
  if constexpr (kLanes > 8) {
    if (i < elements) {
      ScoreStep<T, kRows, kHeads, true>(rows, i * element, weights + i, kMaxScoreElements, acc);
    }
  }
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) raw[h * raw_stride + r] = Sum(acc[h][r]);
  }
}

// All query heads over one tile of rows. Only the first pass over the tile prefetches.
template <DType T, uint32_t kRows>
VARVE_KERNEL void ScoreTileHeads(const std::byte* const* rows, uint32_t elements,
                                 const float* weights, uint32_t heads, RowPrefetcher& prefetcher,
                                 float* raw, size_t raw_stride) {
  RowPrefetcher idle = RowPrefetcher::Idle(rows[0]);
  for (uint32_t h = 0; h < heads; h += 4) {
    RowPrefetcher& next = h == 0 ? prefetcher : idle;
    const float* w = weights + h * kMaxScoreElements;
    float* out = raw + h * raw_stride;
    switch (heads - h) {
      case 1:
        ScoreTile<T, kRows, 1>(rows, elements, w, next, out, raw_stride);
        break;
      case 2:
        ScoreTile<T, kRows, 2>(rows, elements, w, next, out, raw_stride);
        break;
      case 3:
        ScoreTile<T, kRows, 3>(rows, elements, w, next, out, raw_stride);
        break;
      default:
        ScoreTile<T, kRows, 4>(rows, elements, w, next, out, raw_stride);
        break;
    }
  }
}

template <DType T>
VARVE_KERNEL void ScoreAll(const DigestMatrix& digests, const float* weights, uint32_t heads,
                           float* raw) {
  const uint32_t elements = DigestElements(digests.kind, digests.head_dim);
  const size_t row_bytes = elements * DTypeBytes(T);
  const size_t ahead = PrefetchDistance(digests.row_stride_bytes);
  const std::byte* rows[kScoreRows];
  uint32_t page = 0;
  for (; page + kScoreRows <= digests.num_pages; page += kScoreRows) {
    for (uint32_t r = 0; r < kScoreRows; ++r) {
      rows[r] = digests.rows + (page + r) * digests.row_stride_bytes;
    }
    PrefetchTranslation(rows[0]);
    RowPrefetcher prefetcher(rows[0] + ahead, row_bytes, digests.row_stride_bytes);
    ScoreTileHeads<T, kScoreRows>(rows, elements, weights, heads, prefetcher, raw + page,
                                  digests.num_pages);
  }
  for (; page < digests.num_pages; ++page) {
    rows[0] = digests.rows + page * digests.row_stride_bytes;
    RowPrefetcher prefetcher = RowPrefetcher::Idle(rows[0]);
    ScoreTileHeads<T, 1>(rows, elements, weights, heads, prefetcher, raw + page, digests.num_pages);
  }
}

VARVE_KERNEL void ScorePagesKernel(const DigestMatrix& digests, const float* queries,
                                   uint32_t group_size, float* raw) {
  if (IsSketch(digests.kind)) {
    return ScoreSketches(digests, queries, group_size, raw, SketchLogMassKernel);
  }
  alignas(64) float weights[kScoreHeads * kMaxScoreElements];
  for (uint32_t g = 0; g < group_size; g += kScoreHeads) {
    const uint32_t heads = group_size - g < kScoreHeads ? group_size - g : kScoreHeads;
    MakeScoreWeights(digests.kind, queries + size_t{g} * digests.head_dim, heads, digests.head_dim,
                     weights);
    float* out = raw + size_t{g} * digests.num_pages;
    switch (digests.dtype) {
      case DType::kF32:
        ScoreAll<DType::kF32>(digests, weights, heads, out);
        break;
      case DType::kF16:
        ScoreAll<DType::kF16>(digests, weights, heads, out);
        break;
      case DType::kBF16:
        ScoreAll<DType::kBF16>(digests, weights, heads, out);
        break;
    }
  }
}
