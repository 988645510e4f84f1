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

#include <cmath>
#include <limits>

#include "kvstore/page/simd/avx512_math.h"

namespace varve::page {
namespace {

#define VARVE_FN [[gnu::always_inline]] VARVE_TARGET_AVX512 inline
#define VARVE_KERNEL VARVE_TARGET_AVX512

// Four tokens and up to four query heads at a time: sixteen sums, of which four query heads of one
// token become a quad. From there on a vector has the logits of four tokens, so that the
// exponentials of all query heads are taken together.
//
// A page is read once for all query heads, and the next one is prefetched meanwhile: pages lie
// anywhere, and the hardware prefetchers stop at each end of 4 KiB.
constexpr uint32_t kChunk = 32;  // elements
constexpr uint32_t kTokens = 4;
constexpr uint32_t kPages = 4;
constexpr uint32_t kHeads = 4;
constexpr uint32_t kMaxGroups = kMaxPageTokens / kTokens;
constexpr uint32_t kMaxElements = kMaxScoreElements / 2;

// kChunk elements as two vectors: of bf16 those of even index and those of odd index, which takes
// half of what expanding them in order does; otherwise the lower and the upper half.
struct Chunk {
  __m512 first, second;
};

// In place k of a chunk: the element that stands there.
template <DType T>
constexpr uint32_t ElementAt(uint32_t k) {
  if (T != DType::kBF16) return k;
  return k < kChunk / 2 ? 2 * k : 2 * (k - kChunk / 2) + 1;
}

template <DType T>
VARVE_FN Chunk LoadChunk(const std::byte* row, __mmask32 mask) {
  if constexpr (T == DType::kF32) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), row),
            _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), row + 64)};
  }
  const __m512i v = _mm512_maskz_loadu_epi16(mask, row);
  if constexpr (T == DType::kF16) {
    return {_mm512_cvtph_ps(_mm512_castsi512_si256(v)),
            _mm512_cvtph_ps(_mm512_extracti64x4_epi64(v, 1))};
  }
  return {_mm512_castsi512_ps(_mm512_slli_epi32(v, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(-0x10000)))};
}

struct Queries {
  alignas(64) float elements[kHeads][kMaxElements];
  uint32_t head_dim;
  float scale;
};

// Of one quad of tokens: in quarter t the logits of token t, before the scale.
template <DType T, uint32_t kCount>
VARVE_FN __m512 Logits(const std::byte* const (&rows)[kTokens], const Queries& q,
                       RowPrefetcher& prefetcher) {
  constexpr size_t kBytes = kChunk * DTypeBytes(T);
  __m512 acc[kTokens][kCount];
#pragma GCC unroll 4
  for (uint32_t t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kCount; ++h) acc[t][h] = _mm512_setzero_ps();
  }
  for (uint32_t i = 0; i < q.head_dim; i += kChunk) {
    const uint32_t left = q.head_dim - i;
    const __mmask32 mask = left >= kChunk ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    Chunk k[kTokens];
#pragma GCC unroll 4
    for (uint32_t t = 0; t < kTokens; ++t) {
      k[t] = LoadChunk<T>(rows[t] + i * DTypeBytes(T), mask);
      for (size_t line = 0; line < kBytes; line += RowPrefetcher::kLineBytes) prefetcher.Next();
    }
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kCount; ++h) {
      const __m512 first = _mm512_load_ps(&q.elements[h][i]);
#pragma GCC unroll 4
      for (uint32_t t = 0; t < kTokens; ++t) {
        acc[t][h] = _mm512_fmadd_ps(first, k[t].first, acc[t][h]);
      }
    }
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kCount; ++h) {
      const __m512 second = _mm512_load_ps(&q.elements[h][i + kChunk / 2]);
#pragma GCC unroll 4
      for (uint32_t t = 0; t < kTokens; ++t) {
        acc[t][h] = _mm512_fmadd_ps(second, k[t].second, acc[t][h]);
      }
    }
  }
  __m512 quads[kTokens];
#pragma GCC unroll 4
  for (uint32_t t = 0; t < kTokens; ++t) {
    quads[t] = avx512::Quads<avx512::Add>(acc[t][0], acc[t][kCount > 1 ? 1 : 0],
                                          acc[t][kCount > 2 ? 2 : 0], acc[t][kCount > 3 ? 3 : 0]);
  }
  return avx512::FoldQuads<avx512::Add>(quads[0], quads[1], quads[2], quads[3]);
}

// Those of the first tokens of a quad.
VARVE_FN __mmask16 LanesOf(uint32_t tokens) {
  return static_cast<__mmask16>(tokens < kTokens ? (1u << 4 * tokens) - 1 : 0xffffu);
}

// greatest: of the logits of each query head, in every quarter. sum: of 2^(scale (logit -
// greatest)), the parts of the quarters yet to be added. The page has tokens.
template <DType T, uint32_t kCount>
VARVE_FN void AddUpPage(const PageView& page, const Queries& q, float scale,
                        RowPrefetcher& prefetcher, __m512& greatest, __m512& sum) {
  const size_t row_bytes = q.head_dim * DTypeBytes(T);
  const auto* keys = static_cast<const std::byte*>(page.k);
  const __m512 minus_infinity = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  const uint32_t groups = (page.tokens + kTokens - 1) / kTokens;
  __m512 logits[kMaxGroups];
  greatest = minus_infinity;
  for (uint32_t group = 0; group < groups; ++group) {
    const uint32_t token = group * kTokens;
    const uint32_t left = page.tokens - token;
    const std::byte* rows[kTokens];
    for (uint32_t t = 0; t < kTokens; ++t) {
      // Past the end the last token stands in, and does not count.
      rows[t] = keys + (token + (t < left ? t : left - 1)) * row_bytes;
    }
    logits[group] = Logits<T, kCount>(rows, q, prefetcher);
    greatest = _mm512_mask_max_ps(greatest, LanesOf(left), greatest, logits[group]);
  }
  greatest = _mm512_max_ps(greatest, _mm512_shuffle_f32x4(greatest, greatest, 0x4e));
  greatest = _mm512_max_ps(greatest, _mm512_shuffle_f32x4(greatest, greatest, 0xb1));
  sum = _mm512_setzero_ps();
  for (uint32_t group = 0; group < groups; ++group) {
    const __m512 below = _mm512_sub_ps(logits[group], greatest);
    const __m512 part = avx512::Exp2(_mm512_mul_ps(below, _mm512_set1_ps(scale)));
    sum = _mm512_mask_add_ps(sum, LanesOf(page.tokens - group * kTokens), sum, part);
  }
}

// One line of each 4 KiB, so that the addresses are translated when the others are asked for.
template <DType T>
VARVE_FN void PrefetchTranslations(const PageView& page, uint32_t head_dim) {
  const auto* keys = static_cast<const std::byte*>(page.k);
  const size_t bytes = size_t{page.tokens} * head_dim * DTypeBytes(T);
  for (size_t at = 0; at < bytes; at += 4096) __builtin_prefetch(keys + at);
}

// Up to kPages pages, whose logarithms are one vector. next: those after them.
template <DType T, uint32_t kCount>
VARVE_KERNEL void MassOfPages(const Queries& q, std::span<const PageView> pages,
                              std::span<const PageView> next, float* log_mass, size_t stride) {
  __m512 greatest[kPages];
  __m512 sums[kPages];
  __mmask16 empty = 0;
  for (uint32_t p = 0; p < kPages; ++p) {
    greatest[p] = _mm512_setzero_ps();
    sums[p] = _mm512_set1_ps(1.0f);
    if (p >= pages.size()) continue;
    if (pages[p].tokens == 0) {
      empty = static_cast<__mmask16>(empty | 0xfu << 4 * p);
      continue;
    }
    RowPrefetcher prefetcher = RowPrefetcher::Idle(static_cast<const std::byte*>(pages[p].k));
    if (p + 1 < pages.size() || !next.empty()) {
      const PageView& after = p + 1 < pages.size() ? pages[p + 1] : next[0];
      prefetcher = RowPrefetcher(static_cast<const std::byte*>(after.k), SIZE_MAX, 0);
    }
    if (p < next.size()) PrefetchTranslations<T>(next[p], q.head_dim);
    AddUpPage<T, kCount>(pages[p], q, q.scale * avx512::kLog2E, prefetcher, greatest[p], sums[p]);
  }
  const __m512 sum = avx512::FoldQuads<avx512::Add>(sums[0], sums[1], sums[2], sums[3]);
  __m512 max = _mm512_mask_mov_ps(greatest[0], 0x00f0, greatest[1]);
  max = _mm512_mask_mov_ps(max, 0x0f00, greatest[2]);
  max = _mm512_mask_mov_ps(max, 0xf000, greatest[3]);
  const __m512 log = _mm512_mul_ps(avx512::Log2(sum), _mm512_set1_ps(avx512::kLn2));
  __m512 mass = _mm512_fmadd_ps(max, _mm512_set1_ps(q.scale), log);
  mass = _mm512_mask_mov_ps(mass, empty, _mm512_set1_ps(-std::numeric_limits<float>::infinity()));
  avx512::StoreByHead(mass, kCount, static_cast<uint32_t>(pages.size()), log_mass, stride);
}

template <DType T>
void Arrange(const AttentionShape& shape, const float* q, uint32_t heads, Queries& out) {
  // The greatest logit is looked for before the scale, whose sign therefore goes to the query.
  const float sign = std::copysign(1.0f, shape.scale);
  out.head_dim = shape.head_dim;
  out.scale = std::abs(shape.scale);
  for (uint32_t h = 0; h < heads; ++h) {
    for (uint32_t i = 0; i < shape.head_dim; i += kChunk) {
      for (uint32_t k = 0; k < kChunk; ++k) {
        const uint32_t at = i + ElementAt<T>(k);
        out.elements[h][i + k] =
            at < shape.head_dim ? sign * q[size_t{h} * shape.head_dim + at] : 0.0f;
      }
    }
  }
}

template <DType T>
VARVE_KERNEL void LogMassOf(const AttentionShape& shape, const float* q,
                            std::span<const PageView> pages, float* log_mass) {
  constexpr uint32_t kMaxSets = 4;  // of query heads for each of which a page is in the cache still
  Queries queries[kMaxSets];
  for (uint32_t first_head = 0; first_head < shape.group_size; first_head += kMaxSets * kHeads) {
    const uint32_t left = shape.group_size - first_head;
    const uint32_t heads = left < kMaxSets * kHeads ? left : kMaxSets * kHeads;
    for (uint32_t h = 0; h < heads; h += kHeads) {
      Arrange<T>(shape, q + size_t{first_head + h} * shape.head_dim,
                 heads - h < kHeads ? heads - h : kHeads, queries[h / kHeads]);
    }
    for (size_t i = 0; i < pages.size(); i += kPages) {
      const size_t rest = pages.size() - i;
      const auto some = pages.subspan(i, rest < kPages ? rest : kPages);
      for (uint32_t h = 0; h < heads; h += kHeads) {
        const auto next = rest > kPages ? pages.subspan(i + kPages) : std::span<const PageView>();
        const Queries& set = queries[h / kHeads];
        float* out = log_mass + size_t{first_head + h} * pages.size() + i;
        switch (heads - h) {
          case 1:
            MassOfPages<T, 1>(set, some, next, out, pages.size());
            break;
          case 2:
            MassOfPages<T, 2>(set, some, next, out, pages.size());
            break;
          case 3:
            MassOfPages<T, 3>(set, some, next, out, pages.size());
            break;
          default:
            MassOfPages<T, 4>(set, some, next, out, pages.size());
            break;
        }
      }
    }
  }
}

}  // namespace

void PageLogMassAvx512(const AttentionShape& shape, const float* q, std::span<const PageView> pages,
                       float* log_mass) {
  const avx512::FlushSubnormals flush;
  switch (shape.dtype) {
    case DType::kF32:
      return LogMassOf<DType::kF32>(shape, q, pages, log_mass);
    case DType::kF16:
      return LogMassOf<DType::kF16>(shape, q, pages, log_mass);
    case DType::kBF16:
      return LogMassOf<DType::kBF16>(shape, q, pages, log_mass);
  }
}

}  // namespace varve::page

#endif  // __x86_64__
