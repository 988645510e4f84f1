// Sketch scoring in AVX-512. Internal to page/simd; include inside the namespace of one kernel
// table, after vec_avx512.h and body_sketch_dots.h, and outside of it avx512_math.h.
//
// Four pages and up to four query heads at a time, so that the sums of exponentials are one vector
// with a lane for each page and query head, and so are the logarithms. The exponentials are of
// logits less that of the page's first token, which takes no search through the lanes. With S the
// sum of a query's integers and D as in score.h, half of a logit is
//   step (scale D + (mean - (2^b - 1) scale) S / 2),
// where step is left to the factor that the exponential has anyway.
//
// Nothing is clamped on the way. Pages with a logit far above the first one are scored again, less
// the greatest; those with logits of 1e9 and more, or that are no numbers, by the narrow kernel. (A
// token with (2^b - 1) scale beyond single precision may be left out.)

constexpr uint32_t kPagesAtOnce = 4;
constexpr uint32_t kHeadsAtOnce = 4;

// The sums of products by multiply-adds (body_sketch_dots.h).
template <uint32_t kBits>
class QuadDots {
 public:
  QuadDots(const SketchShape& /*shape*/, const SketchQueries& queries, uint32_t /*heads*/)
      : queries_(queries) {}

  template <uint32_t kHeads, uint32_t kTiles, class Prefetch>
  VARVE_FN void Sums(const std::byte* sketch, SketchShape shape, uint32_t head,
                     const Prefetch& prefetch, IntVec (&sums)[kHeads][kTiles]) const {
    SketchDots<kBits, kHeads, kTiles>(sketch, shape, queries_, head, prefetch, sums);
  }

 private:
  const SketchQueries& queries_;
};

// What the rows of a call have in common. kWords: of a token, where it is known beforehand, so that
// all sums stay in registers; 0: any.
template <uint32_t kBits, uint32_t kWords, uint32_t kTiles>
struct WideJob {
  SketchShape Shape() const { return {kBits, kWords == 0 ? any_words : kWords, kTiles * kLanes}; }

  uint32_t any_words;
  const SketchQueries& queries;
  const SketchRows& rows;
  const SketchOutput& out;
  size_t ahead;  // rows from one to that which is prefetched meanwhile
};

// Asks for the lines of the sketch that will be read `ahead` rows later, each where its counterpart
// in this one is read: more at once than the processor can wait for would hold up its loads.
template <uint32_t kTiles>
class SketchPrefetcher {
 public:
  template <class Job>
  SketchPrefetcher(const Job& job, size_t row) : sketch_(job.rows.row_or_last(row + job.ahead)) {
    // One line far ahead, so that the address is translated when the others are asked for.
    __builtin_prefetch(job.rows.row_or_last(row + 4 * job.ahead));
  }

  [[gnu::always_inline]] void operator()(size_t offset) const {
    __builtin_prefetch(sketch_ + offset);
    if (kTiles == 2) __builtin_prefetch(sketch_ + offset + RowPrefetcher::kLineBytes);
  }

 private:
  const std::byte* sketch_;
};

// A vector of scales or means, of which a page has kTiles. Those of two vectors are spread from
// one.
template <uint32_t kTiles>
VARVE_FN Vec LoadNumbers(const std::byte* p, uint32_t tile) {
  if constexpr (kTiles == 1) return LoadBF16(p);
  constexpr __mmask32 kUpperHalves = 0xaaaa'aaaa;
  const __m512i places = _mm512_add_epi32(
      _mm512_set1_epi32(static_cast<int>(tile << 20)),
      _mm512_slli_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                        16));
  return _mm512_castsi512_ps(
      _mm512_maskz_permutexvar_epi16(kUpperHalves, places, _mm512_loadu_si512(p)));
}

// What the exponents are less by: that of the page's first token, or the greatest.
enum class Shift { kFirst, kGreatest };

// The sums of exponentials, lanes yet to be added up. factors: from half a logit over step to the
// exponent of 2.
template <Shift kShift, uint32_t kHeads, uint32_t kBits, uint32_t kWords, uint32_t kTiles,
          class Dots>
VARVE_FN void SumsOfPage(const WideJob<kBits, kWords, kTiles>& job, const Dots& dots, size_t row,
                         uint32_t head, const float* factors, Vec (&exponentials)[kHeads],
                         float* shifts) {
  IntVec sums[kHeads][kTiles];
  const SketchShape shape = job.Shape();
  const SketchPrefetcher<kTiles> prefetch(job, row);
  const std::byte* const sketch = job.rows.row_or_last(row);
  dots.template Sums<kHeads, kTiles>(sketch, shape, head, prefetch, sums);
  const size_t tail_at = size_t{4} * shape.words * shape.tokens;
  prefetch(tail_at);
  const std::byte* tail = sketch + tail_at;
  Vec scale[kTiles], rest[kTiles];
#pragma GCC unroll 2
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
    scale[tile] = LoadNumbers<kTiles>(tail, tile);
    const Vec mean = LoadNumbers<kTiles>(tail + 2 * shape.tokens, tile);
    rest[tile] = _mm512_fnmadd_ps(Set((1u << kBits) - 1.0f), scale[tile], mean);
  }
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    const Vec half_sum = Set(0.5f * job.queries.sum[head + h]);
    const Vec factor = Set(factors[h]);
    Vec half[kTiles];
#pragma GCC unroll 2
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      half[tile] = MulAdd(scale[tile], ToFloat(sums[h][tile]), rest[tile] * half_sum);
    }
    Vec shift = half[0] * factor;
    if constexpr (kShift == Shift::kFirst) {
      shift = _mm512_broadcastss_ps(_mm512_castps512_ps128(shift));
    } else {
      shift = Set(MaxLane(kTiles == 1 ? shift : Max(shift, half[kTiles - 1] * factor)));
    }
    shifts[h] = _mm512_cvtss_f32(shift);
#pragma GCC unroll 2
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const Vec v = avx512::Exp2<3>(_mm512_fmsub_ps(half[tile], factor, shift));
      exponentials[h] = tile == 0 ? v : exponentials[h] + v;
    }
  }
}

// A page whose logits this way of scoring cannot tell, for the heads whose lanes are not fine.
template <class Job>
VARVE_KERNEL void ScoreAgain(const Job& job, size_t row, uint32_t head, uint32_t heads,
                             uint32_t fine) {
  const std::byte* const one = job.rows.row(row);
  float log_mass[kSketchHeads];
  VARVE_NARROW_SKETCH(job.Shape(), job.queries, head + heads, {nullptr, 0, &one, 1},
                      {log_mass, 1, job.out.factor});
  for (uint32_t h = 0; h < heads; ++h) {
    if ((fine >> h & 1u) == 0) {
      job.out.log_mass[(head + h) * job.out.stride + row] = log_mass[head + h];
    }
  }
}

// The logarithms of the masses of the pages from `first` on for the query heads from `head` on, in
// lane 4 p + h; past the end the last page stands in. fine: lanes that are right.
template <Shift kShift, uint32_t kHeads, uint32_t kBits, uint32_t kWords, uint32_t kTiles,
          class Dots>
VARVE_FN Vec LogMasses(const WideJob<kBits, kWords, kTiles>& job, const Dots& dots, size_t first,
                       uint32_t head, const float* factors, __mmask16& fine) {
  Vec quads[kPagesAtOnce];
  alignas(64) float shifts[kLanes] = {};
#pragma GCC unroll 1
  for (uint32_t p = 0; p < kPagesAtOnce; ++p) {
    Vec sums[kHeads];
    SumsOfPage<kShift, kHeads>(job, dots, first + p, head, factors + head, sums, shifts + 4 * p);
    quads[p] = avx512::Quads<avx512::Add>(sums[0], sums[kHeads > 1 ? 1 : 0],
                                          sums[kHeads > 2 ? 2 : 0], sums[kHeads > 3 ? 3 : 0]);
  }
  const Vec sum = avx512::FoldQuads<avx512::Add>(quads[0], quads[1], quads[2], quads[3]);
  const Vec shift = LoadF32(shifts);
  // Beyond the one the rounding of a shift alone could take all exponentials to zero, beyond the
  // other some are close to infinite. Also of a NaN neither holds.
  fine = _mm512_cmp_ps_mask(Abs(shift), Set(0x1p31f), _CMP_LE_OQ) &
         _mm512_cmp_ps_mask(sum, Set(0x1p100f), _CMP_LE_OQ);
  return Set(job.out.factor) * ((avx512::Log2(sum) + shift) * Set(avx512::kLn2));
}

// In place of the lanes that are not fine.
template <uint32_t kHeads, class Job, class Dots>
[[gnu::noinline]] VARVE_KERNEL Vec LogMassesAgain(const Job& job, const Dots& dots, size_t first,
                                                  uint32_t head, const float* factors,
                                                  Vec log_masses, __mmask16& fine) {
  __mmask16 fine_again;
  const Vec again =
      LogMasses<Shift::kGreatest, kHeads>(job, dots, first, head, factors, fine_again);
  log_masses = _mm512_mask_mov_ps(again, fine, log_masses);
  fine |= fine_again;
  return log_masses;
}

template <uint32_t kHeads, uint32_t kBits, uint32_t kWords, uint32_t kTiles, class Dots>
VARVE_KERNEL void WideHeads(const WideJob<kBits, kWords, kTiles>& job, const Dots& dots,
                            uint32_t heads) {
  float factors[kSketchHeads];
  for (uint32_t h = 0; h < heads; ++h) factors[h] = 2 * avx512::kLog2E * job.queries.step[h];
  for (size_t first = 0; first < job.rows.count; first += kPagesAtOnce) {
    const size_t left = job.rows.count - first;
    const uint32_t pages = left < kPagesAtOnce ? static_cast<uint32_t>(left) : kPagesAtOnce;
    for (uint32_t set = 0; set < heads; set += kHeads) {
      // The last heads are some of those before them once more where they are fewer.
      const uint32_t head = set + kHeads <= heads ? set : heads - kHeads;
      __mmask16 fine;
      Vec log_masses = LogMasses<Shift::kFirst, kHeads>(job, dots, first, head, factors, fine);
      if (fine != 0xffffu) {
        log_masses = LogMassesAgain<kHeads>(job, dots, first, head, factors, log_masses, fine);
      }
      avx512::StoreByHead(log_masses, kHeads, pages,
                          job.out.log_mass + head * job.out.stride + first, job.out.stride);
      if (fine == 0xffffu) continue;
      for (uint32_t p = 0; p < pages; ++p) {
        ScoreAgain(job, first + p, head, kHeads, fine >> 4 * p);
      }
    }
  }
}

template <class Job, class Dots>
VARVE_KERNEL void WideRows(const Job& job, const Dots& dots, uint32_t heads) {
  switch (heads) {
    case 1:
      return WideHeads<1>(job, dots, heads);
    case 2:
      return WideHeads<2>(job, dots, heads);
    case 3:
      return WideHeads<3>(job, dots, heads);
    default:
      return WideHeads<4>(job, dots, heads);
  }
}

template <uint32_t kBits, class Dots>
VARVE_KERNEL void WideSketches(const SketchShape& shape, const SketchQueries& queries,
                               uint32_t heads, const SketchRows& rows, const SketchOutput& out) {
  // Pages of 8 tokens would fill half a vector.
  if (shape.tokens < kLanes) return VARVE_NARROW_SKETCH(shape, queries, heads, rows, out);
  const avx512::FlushSubnormals flush;
  const Dots dots(shape, queries, heads);
  const size_t row_bytes = size_t{4} * (shape.words + 1) * shape.tokens;
  // Nearer than PrefetchDistance: further ahead, rows asked for push out of the first cache what is
  // at work (`sign1`: 2 % slower at 8 KiB, 6 % at 20).
  const size_t ahead = std::max<size_t>(4, 4096 / row_bytes);
  constexpr uint32_t kWordsOf128 = 128 * kBits / 32;
  if (shape.tokens == kLanes) {
    const WideJob<kBits, 0, 1> job{shape.words, queries, rows, out, ahead};
    WideRows(job, dots, heads);
  } else if (shape.words == kWordsOf128) {
    const WideJob<kBits, kWordsOf128, 2> job{shape.words, queries, rows, out, ahead};
    WideRows(job, dots, heads);
  } else {
    const WideJob<kBits, 0, 2> job{shape.words, queries, rows, out, ahead};
    WideRows(job, dots, heads);
  }
}

#ifndef VARVE_OWN_SKETCH_KERNEL
VARVE_KERNEL void SketchLogMassKernel(const SketchShape& shape, const SketchQueries& queries,
                                      uint32_t heads, const SketchRows& rows,
                                      const SketchOutput& out) {
  switch (shape.bits) {
    case 1:
      return WideSketches<1, QuadDots<1>>(shape, queries, heads, rows, out);
    case 2:
      return WideSketches<2, QuadDots<2>>(shape, queries, heads, rows, out);
    default:
      return WideSketches<4, QuadDots<4>>(shape, queries, heads, rows, out);
  }
}
#endif
