// Digest accumulation and row arithmetic. Internal to page/simd; include inside the namespace of
// one kernel table.

template <DType T, bool kHalf>
VARVE_FN void StatisticsColumn(const std::byte* keys, uint32_t tokens, size_t row_bytes, float* hi,
                               float* lo, float* sum) {
  constexpr uint32_t n = kHalf ? 8 : kLanes;
  Vec h = LoadFloats(hi, n, 0);
  Vec l = LoadFloats(lo, n, 0);
  Vec s = LoadFloats(sum, n, 0);
  for (uint32_t t = 0; t < tokens; ++t) {
    const Vec key = LoadRow<T, kHalf>(keys + t * row_bytes);
    h = Max(key, h);
    l = Min(key, l);
    s = s + key;
  }
  StoreFloats(hi, n, h);
  StoreFloats(lo, n, l);
  StoreFloats(sum, n, s);
}

template <DType T>
VARVE_KERNEL void StatisticsOf(const std::byte* keys, uint32_t tokens, uint32_t head_dim, float* hi,
                               float* lo, float* sum) {
  constexpr size_t element = DTypeBytes(T);
  uint32_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) {
    StatisticsColumn<T, false>(keys + i * element, tokens, head_dim * element, hi + i, lo + i,
                               sum + i);
  }
  if constexpr (kLanes > 8) {
    if (i < head_dim) {
      StatisticsColumn<T, true>(keys + i * element, tokens, head_dim * element, hi + i, lo + i,
                                sum + i);
    }
  }
}

VARVE_KERNEL void AccumulateStatistics(const void* keys, uint32_t tokens, uint32_t head_dim,
                                       DType dtype, float* hi, float* lo, float* sum) {
  const auto* bytes = static_cast<const std::byte*>(keys);
  switch (dtype) {
    case DType::kF32:
      return StatisticsOf<DType::kF32>(bytes, tokens, head_dim, hi, lo, sum);
    case DType::kF16:
      return StatisticsOf<DType::kF16>(bytes, tokens, head_dim, hi, lo, sum);
    case DType::kBF16:
      return StatisticsOf<DType::kBF16>(bytes, tokens, head_dim, hi, lo, sum);
  }
}

// The vector form of digest_math::Center and Deviation.
template <DType T, bool kHalf>
VARVE_FN void DeviationColumn(const std::byte* keys, uint32_t tokens, size_t row_bytes,
                              const float* hi, const float* lo, float* deviation) {
  constexpr uint32_t n = kHalf ? 8 : kLanes;
  const Vec half = Set(0.5f);
  const Vec center = half * LoadFloats(hi, n, 0) + half * LoadFloats(lo, n, 0);
  Vec total = LoadFloats(deviation, n, 0);
  for (uint32_t t = 0; t < tokens; ++t) {
    total = total + Abs(LoadRow<T, kHalf>(keys + t * row_bytes) - center);
  }
  StoreFloats(deviation, n, total);
}

template <DType T>
VARVE_KERNEL void DeviationOf(const std::byte* keys, uint32_t tokens, uint32_t head_dim,
                              const float* hi, const float* lo, float* deviation) {
  constexpr size_t element = DTypeBytes(T);
  uint32_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) {
    DeviationColumn<T, false>(keys + i * element, tokens, head_dim * element, hi + i, lo + i,
                              deviation + i);
  }
  if constexpr (kLanes > 8) {
    if (i < head_dim) {
      DeviationColumn<T, true>(keys + i * element, tokens, head_dim * element, hi + i, lo + i,
                               deviation + i);
    }
  }
}

VARVE_KERNEL void AccumulateDeviation(const void* keys, uint32_t tokens, uint32_t head_dim,
                                      DType dtype, const float* hi, const float* lo,
                                      float* deviation) {
  const auto* bytes = static_cast<const std::byte*>(keys);
  switch (dtype) {
    case DType::kF32:
      return DeviationOf<DType::kF32>(bytes, tokens, head_dim, hi, lo, deviation);
    case DType::kF16:
      return DeviationOf<DType::kF16>(bytes, tokens, head_dim, hi, lo, deviation);
    case DType::kBF16:
      return DeviationOf<DType::kBF16>(bytes, tokens, head_dim, hi, lo, deviation);
  }
}

VARVE_KERNEL float ExpAndSum(float* row, uint32_t count, float max, float scale) {
  Vec total = Set(0);
  for (uint32_t i = 0; i < count; i += kLanes) {
    const uint32_t n = count - i;
    // Lanes past the end hold -inf: they add 0.
    const Vec x = LoadFloats(row + i, n, -std::numeric_limits<float>::infinity());
    const Vec e = Exp((x - Set(max)) * Set(scale));
    StoreFloats(row + i, n, e);
    total = total + e;
  }
  return Sum(total);
}

VARVE_KERNEL float RowMax(const float* row, uint32_t count) {
  Vec greatest = Set(-std::numeric_limits<float>::infinity());
  for (uint32_t i = 0; i < count; i += kLanes) {
    greatest =
        Max(LoadFloats(row + i, count - i, -std::numeric_limits<float>::infinity()), greatest);
  }
  return MaxLane(greatest);
}

VARVE_KERNEL void AddScaled(float* accumulator, const float* row, uint32_t count, float factor) {
  for (uint32_t i = 0; i < count; i += kLanes) {
    const uint32_t n = count - i;
    const Vec sum = LoadFloats(accumulator + i, n, 0) + Set(factor) * LoadFloats(row + i, n, 0);
    StoreFloats(accumulator + i, n, sum);
  }
}

VARVE_KERNEL void MaxScaled(float* accumulator, const float* row, uint32_t count, float factor) {
  for (uint32_t i = 0; i < count; i += kLanes) {
    const uint32_t n = count - i;
    const Vec scaled = Set(factor) * LoadFloats(row + i, n, 0);
    StoreFloats(accumulator + i, n, Max(scaled, LoadFloats(accumulator + i, n, 0)));
  }
}
