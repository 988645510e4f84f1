// Sketch scoring in AVX-512. Internal to page/simd; include inside the namespace of one kernel
// table, after vec_avx512.h and body_sketch_dots.h, and outside of it avx512_math.h.
//
// Four pages and up to four query heads at a time, so that greatest logits and sums of exponentials
// are one vector with a lane for each page and query head, and so are the logarithms. With S the
// sum of a query's integers and D as in score.h, half of a logit is
//   step (scale D + (mean - (2^b - 1) scale) S / 2),
// where step is left to the factor that the exponential has anyway.
//
// Nothing is clamped on the way: where a logit is not below 1e30, or no number, the result shows
// it, and the page is scored again by the narrow kernel for those heads.

constexpr uint32_t kPagesAtOnce = 4;
constexpr uint32_t kHeadsAtOnce = 4;

// The sums of products by multiply-adds (body_sketch_dots.h).
template <uint32_t kBits>
class QuadDots {
 public:
  QuadDots(const SketchShape& /*shape*/, const SketchQueries& queries, uint32_t /*heads*/)
      : queries_(queries) {}

  template <uint32_t kHeads, uint32_t kTiles>
  VARVE_FN void Sums(const std::byte* row, SketchShape shape, uint32_t head,
                     IntVec (&sums)[kHeads][kTiles]) const {
    SketchDots<kBits, kHeads, kTiles>(row, shape, queries_, head, sums);
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

// The cache lines of a sketch that will be read soon, half of them at a time: more at once than the
// processor can wait for would hold up its loads.
template <class Job>
VARVE_FN void PrefetchSketch(const Job& job, size_t row, bool second_half) {
  const size_t last = job.rows.count - 1;
  const SketchShape shape = job.Shape();
  const size_t bytes = size_t{4} * (shape.words + 1) * shape.tokens;
  const size_t middle = bytes / 2 / RowPrefetcher::kLineBytes * RowPrefetcher::kLineBytes;
  if (second_half) {
    // One line far ahead, so that the address is translated when the others are asked for.
    __builtin_prefetch(job.rows.row(row + 4 * job.ahead < last ? row + 4 * job.ahead : last));
  }
  row += job.ahead;
  const std::byte* sketch = job.rows.row(row < last ? row : last);
  const size_t end = second_half ? bytes : middle;
#pragma GCC unroll 17
  for (size_t at = second_half ? middle : 0; at < end; at += RowPrefetcher::kLineBytes) {
    __builtin_prefetch(sketch + at);
  }
}

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

// Halves of logits over step, and the greatest of each lane.
template <uint32_t kHeads, uint32_t kBits, uint32_t kWords, uint32_t kTiles, class Dots>
VARVE_FN void HalfLogits(const WideJob<kBits, kWords, kTiles>& job, const Dots& dots,
                         const std::byte* row, uint32_t head,
                         float (&half)[kHeads][kTiles * kLanes], Vec (&greatest)[kHeadsAtOnce]) {
  IntVec sums[kHeads][kTiles];
  const SketchShape shape = job.Shape();
  dots.template Sums<kHeads, kTiles>(row, shape, head, sums);
  const std::byte* tail = row + size_t{4} * shape.words * shape.tokens;
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
#pragma GCC unroll 2
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const Vec v = MulAdd(scale[tile], ToFloat(sums[h][tile]), rest[tile] * half_sum);
      Store(&half[h][tile * kLanes], v);
      greatest[h] = tile == 0 ? v : Max(greatest[h], v);
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

// Some pages and query heads between the two stages.
template <uint32_t kHeads, uint32_t kTiles>
struct WideUnit {
  alignas(64) float half[kPagesAtOnce][kHeads][kTiles * kLanes];
  alignas(64) float shifts[kLanes];  // what the exponentials are to be less by, in base 2
  size_t first;
  uint32_t head;
};

// Up to the greatest logits of page p of kPagesAtOnce, or of those that are left.
template <uint32_t kHeads, uint32_t kBits, uint32_t kWords, uint32_t kTiles, class Dots>
VARVE_FN Vec FirstStage(const WideJob<kBits, kWords, kTiles>& job, const Dots& dots, uint32_t p,
                        WideUnit<kHeads, kTiles>& unit) {
  // Past the end the last page stands in.
  const size_t left = job.rows.count - unit.first;
  const size_t row = unit.first + (p < left ? p : left - 1);
  if (unit.head == 0) PrefetchSketch(job, row, false);
  Vec greatest[kHeadsAtOnce];
  HalfLogits<kHeads>(job, dots, job.rows.row(row), unit.head, unit.half[p], greatest);
  return avx512::Quads<avx512::Max>(greatest[0], greatest[kHeads > 1 ? 1 : 0],
                                    greatest[kHeads > 2 ? 2 : 0], greatest[kHeads > 3 ? 3 : 0]);
}

// The exponentials of page p, added up but for the quads.
template <uint32_t kHeads, uint32_t kTiles>
VARVE_FN Vec SecondStage(const float* factors, uint32_t p, const WideUnit<kHeads, kTiles>& unit) {
  Vec sums[kHeads];
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 2
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const Vec v = avx512::Exp2(_mm512_fmsub_ps(LoadF32(&unit.half[p][h][tile * kLanes]),
                                                 Set(factors[h]), Set(unit.shifts[4 * p + h])));
      sums[h] = tile == 0 ? v : sums[h] + v;
    }
  }
  return avx512::Quads<avx512::Add>(sums[0], sums[kHeads > 1 ? 1 : 0], sums[kHeads > 2 ? 2 : 0],
                                    sums[kHeads > 3 ? 3 : 0]);
}

template <uint32_t kHeads, uint32_t kBits, uint32_t kWords, uint32_t kTiles>
VARVE_FN void Finish(const WideJob<kBits, kWords, kTiles>& job, const Vec (&quads)[kPagesAtOnce],
                     const WideUnit<kHeads, kTiles>& unit) {
  const Vec sum = avx512::FoldQuads<avx512::Add>(quads[0], quads[1], quads[2], quads[3]);
  const Vec shift = LoadF32(unit.shifts);
  const Vec log_mass = (avx512::Log2(sum) + shift) * Set(avx512::kLn2);
  const size_t left = job.rows.count - unit.first;
  const uint32_t pages = left < kPagesAtOnce ? static_cast<uint32_t>(left) : kPagesAtOnce;
  avx512::StoreByHead(Set(job.out.factor) * log_mass, kHeads, pages,
                      job.out.log_mass + unit.head * job.out.stride + unit.first, job.out.stride);
  // Beyond it the rounding of a shift alone could take all exponentials to zero. Also of a NaN
  // neither holds.
  const uint32_t fine = _mm512_cmp_ps_mask(Abs(shift), Set(0x1p31f), _CMP_LE_OQ) &
                        _mm512_cmp_ps_mask(sum, Set(64.0f), _CMP_LE_OQ);
  if (fine == 0xffffu) return;
  for (uint32_t p = 0; p < pages; ++p) {
    ScoreAgain(job, unit.first + p, unit.head, kHeads, fine >> 4 * p);
  }
}

// The second stage of some pages goes along with the first stage of the next ones, so that there is
// work while results go across lanes.
template <uint32_t kHeads, uint32_t kBits, uint32_t kWords, uint32_t kTiles, class Dots>
VARVE_KERNEL void WideHeads(const WideJob<kBits, kWords, kTiles>& job, const Dots& dots,
                            uint32_t heads) {
  alignas(64) float factors[kSketchHeads][kLanes];
  for (uint32_t h = 0; h < heads; ++h) {
    for (uint32_t i = 0; i < kLanes; ++i) {
      const uint32_t at = h + (i % 4 < kHeads ? i % 4 : 0);
      factors[h][i] = 2 * avx512::kLog2E * job.queries.step[at < heads ? at : 0];
    }
  }
  const uint32_t sets = (heads + kHeads - 1) / kHeads;
  const size_t count = (job.rows.count + kPagesAtOnce - 1) / kPagesAtOnce * sets;
  WideUnit<kHeads, kTiles> units[2];
  size_t first = 0;
  uint32_t set = 0;
  for (size_t i = 0; i <= count; ++i) {
    WideUnit<kHeads, kTiles>& unit = units[i % 2];
    WideUnit<kHeads, kTiles>& before = units[(i + 1) % 2];
    unit.first = first;
    // The last heads are some of those before them once more where they are fewer.
    unit.head = (set + 1) * kHeads <= heads ? set * kHeads : heads - kHeads;
    if (++set == sets) {
      set = 0;
      first += kPagesAtOnce;
    }
    Vec greatest[kPagesAtOnce], sums[kPagesAtOnce];
#pragma GCC unroll 1
    for (uint32_t p = 0; p < kPagesAtOnce; ++p) {
      if (i < count) greatest[p] = FirstStage(job, dots, p, unit);
      if (i < count && unit.head == 0) PrefetchSketch(job, unit.first + p, true);
      if (i > 0) sums[p] = SecondStage(factors[before.head], p, before);
    }
    if (i < count) {
      const Vec all =
          avx512::FoldQuads<avx512::Max>(greatest[0], greatest[1], greatest[2], greatest[3]);
      Store(unit.shifts, LoadF32(factors[unit.head]) * all);
    }
    if (i > 0) Finish(job, sums, before);
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
  const size_t ahead = PrefetchDistance(row_bytes) / row_bytes;
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
