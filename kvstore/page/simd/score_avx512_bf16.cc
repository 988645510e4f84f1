#include "kvstore/page/digest/score_math.h"
#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/kernel_util.h"
#include "kvstore/page/simd/tables.h"

#if defined(__x86_64__)
// GCC 12 takes the deliberately undefined pass-through operand of its own intrinsics for a mistake
// (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace varve::page {
namespace {

#define VARVE_FN [[gnu::always_inline]] VARVE_TARGET_AVX512_BF16 inline
#define VARVE_KERNEL VARVE_TARGET_AVX512_BF16

// VDPBF16PS multiplies bf16 by bf16. The query is fp32, so it is split into a bf16 value and a bf16
// remainder: what is lost is at most 2^-18 of it, less than the fp32 accumulation error that the
// contract allows. And since max(q hi, q lo) is q hi where q is positive and q lo elsewhere, a
// blend by the query's signs replaces half of the products.
constexpr uint32_t kStep = 32;  // elements per vector
constexpr uint32_t kRows = 4;
constexpr uint32_t kMaxWidth = kMaxScoreElements / 2 + kStep;  // a radius included

struct SplitQueries {
  alignas(64) uint16_t high[kScoreHeads][kMaxWidth];
  alignas(64) uint16_t low[kScoreHeads][kMaxWidth];
  __mmask32 positive[kScoreHeads][kMaxWidth / kStep];
};

VARVE_FN __m512bh Bits(__m512i v) { return reinterpret_cast<__m512bh>(v); }

// The queries against a box, otherwise their weights, `width` each; zero up to the next multiple of
// kStep.
template <bool kBox>
VARVE_KERNEL void Split(const DigestMatrix& digests, const float* queries, uint32_t heads,
                        uint32_t width, SplitQueries& out) {
  const uint32_t padded = (width + kStep - 1) / kStep * kStep;
  for (uint32_t h = 0; h < heads; ++h) {
    const float* query = queries + size_t{h} * digests.head_dim;
    for (uint32_t i = 0; i < padded; ++i) {
      float q = 0.0f;
      if (i < width) {
        q = kBox ? query[i] : score_math::Weight(digests.kind, query, digests.head_dim, i);
      }
      const __mmask32 bit = __mmask32{q > 0.0f} << (i % kStep);
      __mmask32& positive = out.positive[h][i / kStep];
      positive = i % kStep == 0 ? bit : positive | bit;
      out.high[h][i] = F32ToBF16(q);
      out.low[h][i] = F32ToBF16(q - BF16ToF32(out.high[h][i]));
    }
  }
}

// What one call works on: kRows rows, of which the last ones may repeat another.
struct RowTile {
  const std::byte* rows[kRows];
  uint32_t pages;  // rows whose scores are stored
  uint32_t width;  // elements of a row, of a box's half
};

template <uint32_t kStreams, uint32_t kFirst, bool kBox, uint32_t kHeads>
VARVE_FN void Step(const RowTile& tile, uint32_t i, __mmask32 mask, const SplitQueries& q,
                   uint32_t head, RowPrefetcher& prefetcher, __m512 (&acc)[kHeads][kRows]) {
  __m512i hi[kStreams];
  __m512i lo[kStreams];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kStreams; ++r) {
    hi[r] = _mm512_maskz_loadu_epi16(mask, tile.rows[kFirst + r] + 2 * size_t{i});
    prefetcher.Next();
    if constexpr (kBox) {
      lo[r] = _mm512_maskz_loadu_epi16(mask, tile.rows[kFirst + r] + 2 * (size_t{tile.width} + i));
      prefetcher.Next();
    }
  }
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    const __m512i high = _mm512_load_si512(&q.high[head + h][i]);
    const __m512i low = _mm512_load_si512(&q.low[head + h][i]);
    const __mmask32 positive = q.positive[head + h][i / kStep];
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kStreams; ++r) {
      const __m512i x = kBox ? _mm512_mask_blend_epi16(positive, lo[r], hi[r]) : hi[r];
      acc[h][kFirst + r] = _mm512_dpbf16_ps(acc[h][kFirst + r], Bits(x), Bits(high));
      acc[h][kFirst + r] = _mm512_dpbf16_ps(acc[h][kFirst + r], Bits(x), Bits(low));
    }
  }
}

// All elements of the tile, kStreams rows side by side, then the next kStreams rows.
template <uint32_t kStreams, uint32_t kFirst, bool kBox, uint32_t kHeads>
VARVE_FN void Accumulate(const RowTile& tile, const SplitQueries& q, uint32_t head,
                         RowPrefetcher& prefetcher, __m512 (&acc)[kHeads][kRows]) {
  uint32_t i = 0;
  for (; i + kStep <= tile.width; i += kStep) {
    Step<kStreams, kFirst, kBox>(tile, i, ~__mmask32{0}, q, head, prefetcher, acc);
  }
  if (i < tile.width) {
    const __mmask32 mask = (__mmask32{1} << (tile.width - i)) - 1;
    Step<kStreams, kFirst, kBox>(tile, i, mask, q, head, prefetcher, acc);
  }
  if constexpr (kFirst + kStreams < kRows) {
    Accumulate<kStreams, kFirst + kStreams, kBox>(tile, q, head, prefetcher, acc);
  }
}

// Sums of four vectors, one per lane.
VARVE_FN __m128 Sum4(const __m512 (&v)[kRows]) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  const __m512 low = _mm512_shuffle_ps(ab, cd, 0x44);
  const __m512 high = _mm512_shuffle_ps(ab, cd, 0xee);
  const __m512 quads = _mm512_add_ps(low, high);
  const __m256 halves =
      _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps(quads, 1));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

// More rows side by side cost fewer loads of query vectors, but the hardware prefetchers follow
// fewer streams better: with few heads, where memory is the limit, rows are taken one or two at a
// time (measured: one head 0.92 against 0.85 of the read bandwidth with one stream against four;
// eight heads 0.52 against 0.83).
template <uint32_t kStreams, uint32_t kHeads, bool kBox>
VARVE_KERNEL void ScoreTile(const RowTile& tile, const SplitQueries& q, uint32_t head,
                            RowPrefetcher& prefetcher, float* raw, size_t raw_stride) {
  __m512 acc[kHeads][kRows];
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) acc[h][r] = _mm512_setzero_ps();
  }
  Accumulate<kStreams, 0, kBox>(tile, q, head, prefetcher, acc);
  const auto lanes = static_cast<__mmask8>((1u << tile.pages) - 1u);
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    _mm_mask_storeu_ps(raw + h * raw_stride, lanes, Sum4(acc[h]));
  }
}

// All query heads over one tile of rows. Only the first pass over the tile prefetches.
template <bool kBox>
VARVE_KERNEL void ScoreTileHeads(const RowTile& tile, const SplitQueries& q, uint32_t heads,
                                 RowPrefetcher prefetcher, float* raw, size_t raw_stride) {
  if (heads == 4) return ScoreTile<2, 4, kBox>(tile, q, 0, prefetcher, raw, raw_stride);
  for (uint32_t h = 0; h < heads; h += 4) {
    float* out = raw + h * raw_stride;
    switch (heads - h) {
      case 1:
        ScoreTile<1, 1, kBox>(tile, q, h, prefetcher, out, raw_stride);
        break;
      case 2:
        ScoreTile<1, 2, kBox>(tile, q, h, prefetcher, out, raw_stride);
        break;
      case 3:
        ScoreTile<2, 3, kBox>(tile, q, h, prefetcher, out, raw_stride);
        break;
      default:
        ScoreTile<4, 4, kBox>(tile, q, h, prefetcher, out, raw_stride);
        break;
    }
    prefetcher = RowPrefetcher::Idle(tile.rows[0]);
  }
}

template <bool kBox>
VARVE_KERNEL void ScoreBF16(const DigestMatrix& digests, const float* queries, uint32_t heads,
                            float* raw) {
  SplitQueries q;
  const uint32_t elements = DigestElements(digests.kind, digests.head_dim);
  const uint32_t width = kBox ? elements / 2 : elements;
  Split<kBox>(digests, queries, heads, width, q);
  const size_t stride = digests.row_stride_bytes;
  const size_t row_bytes = size_t{elements} * DTypeBytes(DType::kBF16);
  const size_t ahead = PrefetchDistance(stride);
  for (uint32_t page = 0; page < digests.num_pages; page += kRows) {
    const uint32_t left = digests.num_pages - page;
    RowTile tile;
    tile.pages = left < kRows ? left : kRows;
    tile.width = width;
    for (uint32_t r = 0; r < kRows; ++r) {
      // Past the end the last row stands in; its sums are not stored.
      const uint32_t valid = r < tile.pages ? r : tile.pages - 1;
      tile.rows[r] = digests.rows + (page + valid) * stride;
    }
    PrefetchTranslation(tile.rows[0]);
    ScoreTileHeads<kBox>(tile, q, heads, RowPrefetcher(tile.rows[0] + ahead, row_bytes, stride),
                         raw + page, digests.num_pages);
  }
}

// For all else.
const KernelTable& Base() {
  if (Cpu().avx512_vbmi) return Avx512VbmiKernels();
  return Cpu().avx512_vnni ? Avx512VnniKernels() : kAvx512Kernels;
}

VARVE_KERNEL void ScorePagesKernel(const DigestMatrix& digests, const float* queries,
                                   uint32_t group_size, float* raw) {
  if (digests.dtype != DType::kBF16 || IsSketch(digests.kind)) {
    return Base().score_pages(digests, queries, group_size, raw);
  }
  const bool box = Info(digests.kind).vectors == 2;
  for (uint32_t g = 0; g < group_size; g += kScoreHeads) {
    const uint32_t heads = group_size - g < kScoreHeads ? group_size - g : kScoreHeads;
    const float* q = queries + size_t{g} * digests.head_dim;
    float* out = raw + size_t{g} * digests.num_pages;
    if (box) {
      ScoreBF16<true>(digests, q, heads, out);
    } else {
      ScoreBF16<false>(digests, q, heads, out);
    }
  }
}

}  // namespace

const KernelTable& Avx512BF16Kernels() {
  static const KernelTable table = [] {
    KernelTable t = Base();
    t.name = "avx512_bf16";
    t.score_pages = ScorePagesKernel;
    return t;
  }();
  return table;
}

}  // namespace varve::page

#endif  // __x86_64__
