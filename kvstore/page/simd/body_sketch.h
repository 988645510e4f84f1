// Sketch scoring. Internal to page/simd; include inside the namespace of one kernel table, after
// body_common.h and body_sketch_dots.h.

// Logits of kTiles vectors of tokens, from token t on.
template <uint32_t kBits, uint32_t kHeads, uint32_t kTiles>
VARVE_FN void SketchLogits(const std::byte* row, uint32_t t, const SketchShape& shape,
                           const SketchQueries& queries, uint32_t head,
                           float (&logits)[kHeads][kMaxPageTokens]) {
  IntVec sums[kHeads][kTiles];
  SketchDots<kBits, kHeads, kTiles>(
      row + 4 * t, shape, queries, head, [](size_t) {}, sums);
  const std::byte* tail = row + size_t{4} * shape.words * shape.tokens + 2 * t;
#pragma GCC unroll 2
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
    const Vec scale = LoadBF16(tail + 2 * tile * kLanes);
    const Vec mean = LoadBF16(tail + 2 * (tile * kLanes + shape.tokens));
#pragma GCC unroll 8
    for (uint32_t h = 0; h < kHeads; ++h) {
      const float sum = queries.sum[head + h];
      const float step = queries.step[head + h];
      // Below 2^24: exact.
      const Vec levels = MulAdd(Set(2), ToFloat(sums[h][tile]), Set(-((1u << kBits) - 1.0f) * sum));
      const Vec logit = MulAdd(mean, Set(step * sum), (scale * Set(step)) * levels);
      Store(logits[h] + t + tile * kLanes, Min(Max(logit, Set(-1e30f)), Set(1e30f)));
    }
  }
}

// The greatest of a page's logits, and the sum of exp(logit - greatest).
VARVE_FN void ReduceLogits(const float* logits, uint32_t tokens, float* greatest, float* sum) {
  Vec max = LoadF32(logits);
  for (uint32_t t = kLanes; t < tokens; t += kLanes) max = Max(LoadF32(logits + t), max);
  *greatest = MaxLane(max);
  Vec total = Set(0);
  for (uint32_t t = 0; t < tokens; t += kLanes) {
    total = total + Exp(LoadF32(logits + t) - Set(*greatest));
  }
  *sum = Sum(total);
}

// log of 1 .. 32: Halley's steps from the middle, each of which leaves e - 2 tanh(e / 2) of an
// error e: 1.8, 0.36, 0.004, 1e-8.
VARVE_FN Vec LogOfSum(Vec x) {
  Vec y = Set(1.7f);
  for (int step = 0; step < 3; ++step) {
    const Vec e = Exp(y);
    y = y + Set(2) * (x - e) / (x + e);
  }
  return y;
}

template <uint32_t kBits, uint32_t kHeads>
VARVE_KERNEL void SketchHeads(const SketchShape& shape, const SketchQueries& queries, uint32_t head,
                              const SketchRows& rows, const SketchOutput& out) {
  // So many pages at a time that their logarithms are one vector.
  for (size_t first = 0; first < rows.count; first += kLanes) {
    const size_t left = rows.count - first;
    const uint32_t pages = left < kLanes ? static_cast<uint32_t>(left) : kLanes;
    float greatest[kHeads][kLanes] = {};
    float sums[kHeads][kLanes] = {};
    for (uint32_t i = 0; i < pages; ++i) {
      const std::byte* row = rows.row(first + i);
      float logits[kHeads][kMaxPageTokens];
      uint32_t t = 0;
      do {
        if (t + 2 * kLanes <= shape.tokens) {
          SketchLogits<kBits, kHeads, 2>(row, t, shape, queries, head, logits);
          t += 2 * kLanes;
        } else {
          SketchLogits<kBits, kHeads, 1>(row, t, shape, queries, head, logits);
          t += kLanes;
        }
      } while (t < shape.tokens);
      for (uint32_t h = 0; h < kHeads; ++h) {
        ReduceLogits(logits[h], shape.tokens, &greatest[h][i], &sums[h][i]);
      }
    }
    for (uint32_t h = 0; h < kHeads; ++h) {
      const Vec log_mass = LoadF32(greatest[h]) + LogOfSum(LoadF32(sums[h]));
      StoreFloats(out.log_mass + (head + h) * out.stride + first, pages,
                  Set(out.factor) * log_mass);
    }
  }
}

template <uint32_t kBits>
VARVE_KERNEL void SketchOf(const SketchShape& shape, const SketchQueries& queries, uint32_t heads,
                           const SketchRows& rows, const SketchOutput& out) {
  uint32_t head = 0;
  for (; head + 8 <= heads; head += 8) SketchHeads<kBits, 8>(shape, queries, head, rows, out);
  for (; head + 4 <= heads; head += 4) SketchHeads<kBits, 4>(shape, queries, head, rows, out);
  switch (heads - head) {
    case 3:
      return SketchHeads<kBits, 3>(shape, queries, head, rows, out);
    case 2:
      return SketchHeads<kBits, 2>(shape, queries, head, rows, out);
    case 1:
      return SketchHeads<kBits, 1>(shape, queries, head, rows, out);
    default:
      return;
  }
}

VARVE_KERNEL void SketchLogMassKernel(const SketchShape& shape, const SketchQueries& queries,
                                      uint32_t heads, const SketchRows& rows,
                                      const SketchOutput& out) {
  switch (shape.bits) {
    case 1:
      return SketchOf<1>(shape, queries, heads, rows, out);
    case 2:
      return SketchOf<2>(shape, queries, heads, rows, out);
    default:
      return SketchOf<4>(shape, queries, heads, rows, out);
  }
}
