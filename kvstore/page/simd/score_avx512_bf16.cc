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

// VDPBF16PS multiplies bf16 by bf16. The query is fp32, so its weights are split into a bf16 value
// and a bf16 remainder: what is lost is at most 2^-18 of a weight, less than the fp32 accumulation
// error the contract allows.
constexpr uint32_t kStep = 32;  // elements per vector
constexpr uint32_t kRows = 4;

struct SplitWeights {
  alignas(64) uint16_t high[kScoreHeads][kMaxScoreElements];
  alignas(64) uint16_t low[kScoreHeads][kMaxScoreElements];
};

VARVE_FN __m512bh Bits(__m512i v) { return reinterpret_cast<__m512bh>(v); }

VARVE_KERNEL void Split(const float* weights, uint32_t heads, uint32_t elements,
                        SplitWeights& out) {
  for (uint32_t h = 0; h < heads; ++h) {
    for (uint32_t i = 0; i < elements; ++i) {
      const float w = weights[h * kMaxScoreElements + i];
      out.high[h][i] = F32ToBF16(w);
      out.low[h][i] = F32ToBF16(w - BF16ToF32(out.high[h][i]));
    }
  }
}

template <uint32_t kHeads>
VARVE_FN void Step(const std::byte* const* rows, uint32_t i, __mmask32 mask,
                   const SplitWeights& weights, uint32_t head, RowPrefetcher& prefetcher,
                   __m512 (&acc)[kHeads][kRows]) {
  __m512i row[kRows];
#pragma GCC unroll 4
  for (uint32_t r = 0; r < kRows; ++r) {
    row[r] = _mm512_maskz_loadu_epi16(mask, rows[r] + 2 * size_t{i});
    prefetcher.Next();
  }
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    const __m512i high = _mm512_load_si512(&weights.high[head + h][i]);
    const __m512i low = _mm512_load_si512(&weights.low[head + h][i]);
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) {
      acc[h][r] = _mm512_dpbf16_ps(acc[h][r], Bits(row[r]), Bits(high));
    }
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) {
      acc[h][r] = _mm512_dpbf16_ps(acc[h][r], Bits(row[r]), Bits(low));
    }
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

template <uint32_t kHeads>
VARVE_KERNEL void Tile(const std::byte* const* rows, uint32_t elements, const SplitWeights& weights,
                       uint32_t head, RowPrefetcher& prefetcher, float* raw, size_t raw_stride,
                       uint32_t pages) {
  __m512 acc[kHeads][kRows];
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 4
    for (uint32_t r = 0; r < kRows; ++r) acc[h][r] = _mm512_setzero_ps();
  }
  uint32_t i = 0;
  for (; i + kStep <= elements; i += kStep) {
    Step<kHeads>(rows, i, ~__mmask32{0}, weights, head, prefetcher, acc);
  }
  if (i < elements) {
    const __mmask32 mask = (__mmask32{1} << (elements - i)) - 1;
    Step<kHeads>(rows, i, mask, weights, head, prefetcher, acc);
  }
  const auto lanes = static_cast<__mmask8>((1u << pages) - 1u);
#pragma GCC unroll 4
  for (uint32_t h = 0; h < kHeads; ++h) {
    _mm_mask_storeu_ps(raw + h * raw_stride, lanes, Sum4(acc[h]));
  }
}

// All query heads over one tile of rows. Only the first pass over the tile prefetches.
VARVE_KERNEL void TileHeads(const std::byte* const* rows, uint32_t elements,
                            const SplitWeights& weights, uint32_t heads, RowPrefetcher& prefetcher,
                            float* raw, size_t raw_stride, uint32_t pages) {
  RowPrefetcher idle = RowPrefetcher::Idle(rows[0]);
  for (uint32_t h = 0; h < heads; h += 4) {
    RowPrefetcher& next = h == 0 ? prefetcher : idle;
    float* out = raw + h * raw_stride;
    switch (heads - h) {
      case 1:
        Tile<1>(rows, elements, weights, h, next, out, raw_stride, pages);
        break;
      case 2:
        Tile<2>(rows, elements, weights, h, next, out, raw_stride, pages);
        break;
      case 3:
        Tile<3>(rows, elements, weights, h, next, out, raw_stride, pages);
        break;
      default:
        Tile<4>(rows, elements, weights, h, next, out, raw_stride, pages);
        break;
    }
  }
}

VARVE_KERNEL void ScoreBF16(const DigestMatrix& digests, const float* queries, uint32_t heads,
                            float* raw) {
  alignas(64) float wide[kScoreHeads * kMaxScoreElements];
  SplitWeights weights;
  const uint32_t elements = Info(digests.kind).vectors * digests.head_dim;
  MakeScoreWeights(digests.kind, queries, heads, digests.head_dim, wide);
  Split(wide, heads, (elements + kStep - 1) / kStep * kStep, weights);
  RowPrefetcher prefetcher(digests.rows, 2 * elements, digests.row_stride_bytes);
  for (uint32_t page = 0; page < digests.num_pages; page += kRows) {
    const uint32_t left = digests.num_pages - page;
    const uint32_t pages = left < kRows ? left : kRows;
    const std::byte* rows[kRows];
    for (uint32_t r = 0; r < kRows; ++r) {
      // Past the end the last row stands in; its sums are not stored.
      const uint32_t valid = r < pages ? r : pages - 1;
      rows[r] = digests.rows + (page + valid) * digests.row_stride_bytes;
    }
    TileHeads(rows, elements, weights, heads, prefetcher, raw + page, digests.num_pages, pages);
  }
}

VARVE_KERNEL void ScorePagesKernel(const DigestMatrix& digests, const float* queries,
                                   uint32_t group_size, float* raw) {
  if (digests.dtype != DType::kBF16) {
    return kAvx512Kernels.score_pages(digests, queries, group_size, raw);
  }
  for (uint32_t g = 0; g < group_size; g += kScoreHeads) {
    const uint32_t heads = group_size - g < kScoreHeads ? group_size - g : kScoreHeads;
    ScoreBF16(digests, queries + size_t{g} * digests.head_dim, heads,
              raw + size_t{g} * digests.num_pages);
  }
}

}  // namespace

const KernelTable& Avx512BF16Kernels() {
  static const KernelTable table = [] {
    KernelTable t = kAvx512Kernels;
    t.name = "avx512_bf16";
    t.score_pages = ScorePagesKernel;
    return t;
  }();
  return table;
}

}  // namespace varve::page

#endif  // __x86_64__
