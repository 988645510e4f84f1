// Decode attention over pages. Internal to page/simd; include inside the namespace of one kernel
// table.
//
// Up to four query heads share each load of K and V. Per page: all logits, one online-softmax step,
// then the V rows.

// logits[h][t] = q_h . k_t for the tokens of one page.
template <DType T, uint32_t kHeads>
VARVE_FN void PageLogits(const float* q, uint32_t head_dim, const std::byte* keys, uint32_t tokens,
                         float (&logits)[kHeads][kMaxPageTokens]) {
  constexpr size_t element = DTypeBytes(T);
  for (uint32_t t = 0; t < tokens; ++t) {
    const std::byte* key = keys + t * head_dim * element;
    Vec acc[kHeads];
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kHeads; ++h) acc[h] = Set(0);
    uint32_t i = 0;
    for (; i + kLanes <= head_dim; i += kLanes) {
      const Vec k = LoadRow<T, false>(key + i * element);
#pragma GCC unroll 4
      for (uint32_t h = 0; h < kHeads; ++h) {
        acc[h] = MulAdd(LoadF32(q + h * head_dim + i), k, acc[h]);
      }
    }
    if constexpr (kLanes > 8) {
      if (i < head_dim) {
        const Vec k = LoadRow<T, true>(key + i * element);
#pragma GCC unroll 4
        for (uint32_t h = 0; h < kHeads; ++h) {
          acc[h] = MulAdd(LoadF32Part(q + h * head_dim + i, 8, 0), k, acc[h]);
        }
      }
    }
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kHeads; ++h) logits[h][t] = Sum(acc[h]);
  }
}

// out[h] = out[h] * correction[h] + sum_t p[h][t] v_t, for one vector of channels.
template <DType T, uint32_t kHeads, bool kHalf>
VARVE_FN void ValueColumn(const std::byte* values, size_t row_bytes, uint32_t tokens,
                          const float (&p)[kHeads][kMaxPageTokens],
                          const float (&correction)[kHeads], float* out, uint32_t head_dim) {
  constexpr uint32_t n = kHalf ? 8 : kLanes;
  Vec acc[kHeads];
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    acc[h] = LoadFloats(out + h * head_dim, n, 0) * Set(correction[h]);
  }
  for (uint32_t t = 0; t < tokens; ++t) {
    const Vec v = LoadRow<T, kHalf>(values + t * row_bytes);
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kHeads; ++h) acc[h] = MulAdd(Set(p[h][t]), v, acc[h]);
  }
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) StoreFloats(out + h * head_dim, n, acc[h]);
}

template <DType T, uint32_t kHeads>
VARVE_FN void AddPage(const AttentionShape& shape, const float* q, const PageView& page,
                      float (&max)[kHeads], float (&total)[kHeads], float* out) {
  constexpr size_t element = DTypeBytes(T);
  const uint32_t head_dim = shape.head_dim;
  float p[kHeads][kMaxPageTokens];
  float correction[kHeads];
  PageLogits<T, kHeads>(q, head_dim, static_cast<const std::byte*>(page.k), page.tokens, p);
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    for (uint32_t t = 0; t < page.tokens; ++t) p[h][t] *= shape.scale;
    const float page_max = RowMax(p[h], page.tokens);
    const float new_max = page_max > max[h] ? page_max : max[h];
    correction[h] = std::exp(max[h] - new_max);
    total[h] = total[h] * correction[h] + ExpAndSum(p[h], page.tokens, new_max, 1.0f);
    max[h] = new_max;
  }
  const auto* values = static_cast<const std::byte*>(page.v);
  const size_t row_bytes = head_dim * element;
  uint32_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) {
    ValueColumn<T, kHeads, false>(values + i * element, row_bytes, page.tokens, p, correction,
                                  out + i, head_dim);
  }
  if constexpr (kLanes > 8) {
    if (i < head_dim) {
      ValueColumn<T, kHeads, true>(values + i * element, row_bytes, page.tokens, p, correction,
                                   out + i, head_dim);
    }
  }
}

template <DType T, uint32_t kHeads>
VARVE_KERNEL void AttendHeads(const AttentionShape& shape, const float* q,
                              std::span<const PageView> pages, float* out, float* lse) {
  float max[kHeads];
  float total[kHeads];
  for (uint32_t h = 0; h < kHeads; ++h) {
    max[h] = -std::numeric_limits<float>::infinity();
    total[h] = 0;
  }
  for (uint32_t i = 0; i < kHeads * shape.head_dim; ++i) out[i] = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i].tokens != 0) AddPage<T, kHeads>(shape, q, pages[i], max, total, out);
  }
  for (uint32_t h = 0; h < kHeads; ++h) {
    lse[h] = max[h] + std::log(total[h]);  // -inf + -inf without tokens
    if (total[h] == 0) continue;
    const float inverse = 1.0f / total[h];
    for (uint32_t i = 0; i < shape.head_dim; ++i) out[h * shape.head_dim + i] *= inverse;
  }
}

template <DType T>
VARVE_KERNEL void AttendOf(const AttentionShape& shape, const float* q,
                           std::span<const PageView> pages, float* out, float* lse) {
  for (uint32_t g = 0; g < shape.group_size; g += 4) {
    const size_t offset = size_t{g} * shape.head_dim;
    switch (shape.group_size - g) {
      case 1:
        AttendHeads<T, 1>(shape, q + offset, pages, out + offset, lse + g);
        break;
      case 2:
        AttendHeads<T, 2>(shape, q + offset, pages, out + offset, lse + g);
        break;
      case 3:
        AttendHeads<T, 3>(shape, q + offset, pages, out + offset, lse + g);
        break;
      default:
        AttendHeads<T, 4>(shape, q + offset, pages, out + offset, lse + g);
        break;
    }
  }
}

VARVE_KERNEL void AttendPagesKernel(const AttentionShape& shape, const float* q,
                                    std::span<const PageView> pages, float* out, float* lse) {
  switch (shape.dtype) {
    case DType::kF32:
      return AttendOf<DType::kF32>(shape, q, pages, out, lse);
    case DType::kF16:
      return AttendOf<DType::kF16>(shape, q, pages, out, lse);
    case DType::kBF16:
      return AttendOf<DType::kBF16>(shape, q, pages, out, lse);
  }
}
