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
  QuadDots(const SketchShape& shape, const SketchQueries& queries, uint32_t /*heads*/)
      : shape_(shape), queries_(queries) {}

  template <uint32_t kHeads, uint32_t kTiles>
  VARVE_FN void Sums(const std::byte* words, uint32_t head, IntVec (&sums)[kHeads][kTiles]) const {
    SketchDots<kBits, kHeads, kTiles>(words, shape_, queries_, head, sums);
  }

 private:
  const SketchShape& shape_;
  const SketchQueries& queries_;
};

// What the rows of a call have in common.
struct WideJob {
  const SketchShape& shape;
  const SketchQueries& queries;
  const SketchRows& rows;
  const SketchOutput& out;
  size_t ahead;  // rows from one to that which is prefetched meanwhile
};

// Cache lines of a sketch that will be read soon, some after each of the words of another.
class SketchPrefetcher {
 public:
  SketchPrefetcher(const WideJob& job, size_t row) {
    const size_t last = job.rows.count - 1;
    line_ = job.rows.row(row + job.ahead < last ? row + job.ahead : last);
    end_ = line_ + size_t{4} * (job.shape.words + 1) * job.shape.tokens;
  }
  VARVE_FN void All() {
    for (; line_ < end_; line_ += RowPrefetcher::kLineBytes) __builtin_prefetch(line_);
  }

 private:
  const std::byte* line_;
  const std::byte* end_;
};

// Halves of logits over step, and the greatest of each lane.
template <uint32_t kBits, uint32_t kHeads, uint32_t kTiles, class Dots>
VARVE_FN void HalfLogits(const WideJob& job, const Dots& dots, const std::byte* row, uint32_t head,
                         float (&half)[kHeads][kTiles * kLanes], Vec (&greatest)[kHeadsAtOnce]) {
  IntVec sums[kHeads][kTiles];
  dots.template Sums<kHeads, kTiles>(row, head, sums);
  const std::byte* tail = row + size_t{4} * job.shape.words * job.shape.tokens;
  Vec scale[kTiles], rest[kTiles];
#pragma GCC unroll 2
  for (uint32_t tile = 0; tile < kTiles; ++tile) {
    scale[tile] = LoadBF16(tail + 2 * tile * kLanes);
    const Vec mean = LoadBF16(tail + 2 * (tile * kLanes + job.shape.tokens));
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
VARVE_KERNEL void ScoreAgain(const WideJob& job, size_t row, uint32_t head, uint32_t heads,
                             uint32_t fine) {
  const std::byte* const one = job.rows.row(row);
  float log_mass[kSketchHeads];
  VARVE_NARROW_SKETCH(job.shape, job.queries, head + heads, {nullptr, 0, &one, 1},
                      {log_mass, 1, job.out.factor});
  for (uint32_t h = 0; h < heads; ++h) {
    if ((fine >> h & 1u) == 0) {
      job.out.log_mass[(head + h) * job.out.stride + row] = log_mass[head + h];
    }
  }
}

// kPagesAtOnce pages from `first` on, or those that are left.
template <uint32_t kBits, uint32_t kHeads, uint32_t kTiles, class Dots>
VARVE_KERNEL void WidePages(const WideJob& job, const Dots& dots, size_t first, uint32_t head) {
  const size_t left = job.rows.count - first;
  const uint32_t pages = left < kPagesAtOnce ? static_cast<uint32_t>(left) : kPagesAtOnce;
  alignas(64) float half[kPagesAtOnce][kHeads][kTiles * kLanes];
  Vec quads[kPagesAtOnce];
#pragma GCC unroll 4
  for (uint32_t p = 0; p < kPagesAtOnce; ++p) {
    // Past the end the last page stands in.
    const size_t row = first + (p < pages ? p : pages - 1);
    if (head == 0) SketchPrefetcher(job, row).All();
    Vec greatest[kHeadsAtOnce];
    HalfLogits<kBits, kHeads, kTiles>(job, dots, job.rows.row(row), head, half[p], greatest);
    quads[p] = avx512::Quads<avx512::Max>(greatest[0], greatest[kHeads > 1 ? 1 : 0],
                                          greatest[kHeads > 2 ? 2 : 0],
                                          greatest[kHeads > 3 ? 3 : 0]);
  }
  const Vec greatest = avx512::FoldQuads<avx512::Max>(quads[0], quads[1], quads[2], quads[3]);
  alignas(64) float factors[kLanes];
  for (uint32_t i = 0; i < kLanes; ++i) {
    factors[i] = 2 * avx512::kLog2E * job.queries.step[head + (i % 4 < kHeads ? i % 4 : 0)];
  }
  const Vec shift = LoadF32(factors) * greatest;
  alignas(64) float shifts[kLanes];
  Store(shifts, shift);
#pragma GCC unroll 4
  for (uint32_t p = 0; p < kPagesAtOnce; ++p) {
    Vec sums[kHeads];
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 2
      for (uint32_t tile = 0; tile < kTiles; ++tile) {
        const Vec v = avx512::Exp2(_mm512_fmsub_ps(LoadF32(&half[p][h][tile * kLanes]),
                                                   Set(factors[h]), Set(shifts[4 * p + h])));
        sums[h] = tile == 0 ? v : sums[h] + v;
      }
    }
    quads[p] = avx512::Quads<avx512::Add>(sums[0], sums[kHeads > 1 ? 1 : 0],
                                          sums[kHeads > 2 ? 2 : 0], sums[kHeads > 3 ? 3 : 0]);
  }
  const Vec sum = avx512::FoldQuads<avx512::Add>(quads[0], quads[1], quads[2], quads[3]);
  const Vec log_mass = (avx512::Log2(sum) + shift) * Set(avx512::kLn2);
  avx512::StoreByHead(Set(job.out.factor) * log_mass, kHeads, pages,
                      job.out.log_mass + head * job.out.stride + first, job.out.stride);
  // Also of a NaN neither holds.
  const uint32_t fine = _mm512_cmp_ps_mask(Abs(shift), Set(1e30f), _CMP_LE_OQ) &
                        _mm512_cmp_ps_mask(sum, Set(64.0f), _CMP_LE_OQ);
  if (fine == 0xffffu) return;
  for (uint32_t p = 0; p < pages; ++p) {
    ScoreAgain(job, first + p, head, kHeads, fine >> 4 * p);
  }
}

template <uint32_t kBits, uint32_t kTiles, class Dots>
VARVE_KERNEL void WideRows(const WideJob& job, const Dots& dots, uint32_t heads) {
  for (size_t first = 0; first < job.rows.count; first += kPagesAtOnce) {
    uint32_t head = 0;
    for (; head + 4 <= heads; head += 4) WidePages<kBits, 4, kTiles>(job, dots, first, head);
    switch (heads - head) {
      case 3:
        WidePages<kBits, 3, kTiles>(job, dots, first, head);
        break;
      case 2:
        WidePages<kBits, 2, kTiles>(job, dots, first, head);
        break;
      case 1:
        WidePages<kBits, 1, kTiles>(job, dots, first, head);
        break;
      default:
        break;
    }
  }
}

template <uint32_t kBits, template <uint32_t> class Dots>
VARVE_KERNEL void WideSketches(const SketchShape& shape, const SketchQueries& queries,
                               uint32_t heads, const SketchRows& rows, const SketchOutput& out) {
  // Pages of 8 tokens would fill half a vector.
  if (shape.tokens < kLanes) return VARVE_NARROW_SKETCH(shape, queries, heads, rows, out);
  const Dots<kBits> dots(shape, queries, heads);
  const size_t row_bytes = size_t{4} * (shape.words + 1) * shape.tokens;
  const WideJob job{shape, queries, rows, out, PrefetchDistance(row_bytes) / row_bytes};
  if (shape.tokens == kLanes) {
    WideRows<kBits, 1>(job, dots, heads);
  } else {
    WideRows<kBits, 2>(job, dots, heads);
  }
}

#ifndef VARVE_OWN_SKETCH_KERNEL
VARVE_KERNEL void SketchLogMassKernel(const SketchShape& shape, const SketchQueries& queries,
                                      uint32_t heads, const SketchRows& rows,
                                      const SketchOutput& out) {
  switch (shape.bits) {
    case 1:
      return WideSketches<1, QuadDots>(shape, queries, heads, rows, out);
    case 2:
      return WideSketches<2, QuadDots>(shape, queries, heads, rows, out);
    default:
      return WideSketches<4, QuadDots>(shape, queries, heads, rows, out);
  }
}
#endif
