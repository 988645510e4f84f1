// Sketch scoring. Internal to page/simd; include inside the namespace of one kernel table, after
// body_common.h.
//
// Lanes are tokens, so no sum goes across lanes before the page's own. The codes of four channels
// are unpacked once (a shift and a mask) for up to eight query heads, whose sums stay in registers.
// The integer sums are the same in every table; from there on it is fp32 (score.h). Counting bits
// instead (VPOPCNTD over the bit planes of the query) would take an AND, a count and an addition
// for each of its eight planes where four channels take one multiply-add: three times as much.

// One vector of the words of neighbouring tokens; a page of 8 is half a vector of 16 lanes.
template <bool kHalf>
VARVE_FN IntVec LoadRowWords(const std::byte* p) {
#ifdef VARVE_HALF_VECTORS
  if constexpr (kHalf) return LoadHalfWords(p);
#endif
  if constexpr (!kHalf) return LoadWords(p);
}

// Integer sums of one vector of tokens. words: word 0 of the first of them.
template <uint32_t kBits, uint32_t kHeads, bool kHalf>
VARVE_FN void SketchDots(const std::byte* words, const SketchShape& shape,
                         const SketchQueries& queries, uint32_t head, IntVec (&sums)[kHeads]) {
  constexpr uint32_t kQuadsPerWord = 8 / kBits;
  const IntVec mask = SetInt(0x01010101u * ((1u << kBits) - 1));
#pragma GCC unroll 8
  for (uint32_t h = 0; h < kHeads; ++h) sums[h] = SetInt(0);
  for (uint32_t w = 0; w < shape.words; ++w, words += size_t{4} * shape.tokens) {
    const IntVec word = LoadRowWords<kHalf>(words);
#pragma GCC unroll 8
    for (uint32_t k = 0; k < kQuadsPerWord; ++k) {
      const IntVec codes = Codes(word, k * kBits, mask);
#pragma GCC unroll 8
      for (uint32_t h = 0; h < kHeads; ++h) {
        const uint32_t quad = queries.quads[head + h][w * kQuadsPerWord + k];
        sums[h] = AddDots(sums[h], codes, SetInt(quad));
      }
    }
  }
}

// Logits of one vector of tokens, from token t on.
template <uint32_t kBits, uint32_t kHeads, bool kHalf>
VARVE_FN void SketchLogits(const std::byte* row, uint32_t t, const SketchShape& shape,
                           const SketchQueries& queries, uint32_t head,
                           float (&logits)[kHeads][kMaxPageTokens]) {
  constexpr uint32_t n = kHalf ? 8 : kLanes;
  IntVec sums[kHeads];
  SketchDots<kBits, kHeads, kHalf>(row + 4 * t, shape, queries, head, sums);
  const std::byte* tail = row + size_t{4} * shape.words * shape.tokens + 2 * t;
  const Vec scale = LoadRow<DType::kBF16, kHalf>(tail);
  const Vec mean = LoadRow<DType::kBF16, kHalf>(tail + 2 * shape.tokens);
#pragma GCC unroll 8
  for (uint32_t h = 0; h < kHeads; ++h) {
    const float sum = queries.sum[head + h];
    const float step = queries.step[head + h];
    // Below 2^24: exact.
    const Vec levels = MulAdd(Set(2), ToFloat(sums[h]), Set(-((1u << kBits) - 1.0f) * sum));
    const Vec logit = MulAdd(mean, Set(step * sum), (scale * Set(step)) * levels);
    StoreFloats(logits[h] + t, n, Min(Max(logit, Set(-1e30f)), Set(1e30f)));
  }
}

// log sum exp of a page's logits.
VARVE_FN float LogMassOfLogits(const float* logits, uint32_t tokens) {
  const float lowest = -std::numeric_limits<float>::infinity();
  Vec greatest = Set(lowest);
  for (uint32_t t = 0; t < tokens; t += kLanes) {
    greatest = Max(LoadFloats(logits + t, tokens - t, lowest), greatest);
  }
  const float max = MaxLane(greatest);
  Vec total = Set(0);
  for (uint32_t t = 0; t < tokens; t += kLanes) {
    total = total + Exp(LoadFloats(logits + t, tokens - t, lowest) - Set(max));
  }
  return max + std::log(Sum(total));
}

template <uint32_t kBits, uint32_t kHeads>
VARVE_KERNEL void SketchHeads(const SketchShape& shape, const SketchQueries& queries, uint32_t head,
                              const SketchRows& rows, const SketchOutput& out) {
  for (size_t i = 0; i < rows.count; ++i) {
    const std::byte* row = rows.row(i);
    float logits[kHeads][kMaxPageTokens];
    if constexpr (kLanes > 8) {
      if (shape.tokens == 8) {
        SketchLogits<kBits, kHeads, true>(row, 0, shape, queries, head, logits);
      }
    }
    for (uint32_t t = 0; t + kLanes <= shape.tokens; t += kLanes) {
      SketchLogits<kBits, kHeads, false>(row, t, shape, queries, head, logits);
    }
    for (uint32_t h = 0; h < kHeads; ++h) {
      out.log_mass[(head + h) * out.stride + i] =
          out.factor * LogMassOfLogits(logits[h], shape.tokens);
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
