// Exponentials, logarithms and sums over lanes in AVX-512. Internal to page/simd.
//
// What has to be summed up for several rows at once is not summed up row by row: four vectors make
// a vector of quads (in each quarter one lane for each of them), four of those one vector whose
// quarter i has the four results of the i-th. The order of additions is the same for each of the
// sixteen, so no result depends on what stands beside it.
#pragma once

#include <cstdint>

#include "kvstore/page/simd/cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define VARVE_AVX512_FN [[gnu::always_inline]] VARVE_TARGET_AVX512 inline

namespace varve::page::avx512 {

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

// While there is one, results below the normal numbers are zero, and so are such operands: Exp2
// would take a hundred cycles for each.
class FlushSubnormals {
 public:
  [[gnu::always_inline]] FlushSubnormals() : before_(_mm_getcsr()) {
    constexpr unsigned kFlushResults = 0x8000, kFlushOperands = 0x0040;
    _mm_setcsr(before_ | kFlushResults | kFlushOperands);
  }
  [[gnu::always_inline]] ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  const unsigned before_;
};

// 2^x, of 0 exactly 1. NaN stays NaN; what does not fit is infinite or zero. Relative error: below
// 2^-22 with kDegree 5, 1e-4 with 3.
template <int kDegree = 5>
VARVE_AVX512_FN __m512 Exp2(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);  // x - floor(x)
  __m512 p;
  if constexpr (kDegree == 5) {
    p = _mm512_set1_ps(0.0018671300495043397f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.009017030708491802f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.05579991266131401f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.24016444385051727f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6931512951850891f));
  } else {
    static_assert(kDegree == 3);
    p = _mm512_set1_ps(0.0770672410726547f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.2276449799537659f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6951166391372681f));
  }
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);  // p 2^floor(x)
}

// Of m = 1 + i / 16: about 1 / m, and minus the logarithm of that number.
alignas(64) inline constexpr float kInverse[16] = {
    1.0f,         0.941176474f, 0.888888896f, 0.842105269f, 0.800000012f, 0.761904776f,
    0.727272749f, 0.695652187f, 0.666666687f, 0.639999986f, 0.615384638f, 0.592592597f,
    0.571428597f, 0.551724136f, 0.533333361f, 0.516129017f};
alignas(64) inline constexpr float kLogOfInverse[16] = {
    0.0f,         0.0874628359f, 0.169924991f, 0.247927503f, 0.321928073f, 0.392317396f,
    0.459431576f, 0.523561929f,  0.584962458f, 0.643856222f, 0.700439664f, 0.754887491f,
    0.807354858f, 0.857981001f,  0.90689052f,  0.954196353f};

// The binary logarithm of a normal number, within 2^-22 and an ulp. NaN stays NaN.
VARVE_AVX512_FN __m512 Log2(__m512 x) {
  const __m512i interval = _mm512_srli_epi32(_mm512_castps_si512(x), 19);
  const __m512 mantissa = _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
  const __m512 inverse = _mm512_permutexvar_ps(interval, _mm512_load_ps(kInverse));
  const __m512 r = _mm512_fmsub_ps(mantissa, inverse, _mm512_set1_ps(1.0f));
  __m512 p = _mm512_set1_ps(-0.32022523880004883f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.4788358509540558f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(-0.7213054895401001f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.4426947832107544f));
  const __m512 log = _mm512_permutexvar_ps(interval, _mm512_load_ps(kLogOfInverse));
  return _mm512_fmadd_ps(p, r, _mm512_add_ps(log, _mm512_getexp_ps(x)));
}

struct Max {
  VARVE_AVX512_FN static __m512 Of(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
};
struct Add {
  VARVE_AVX512_FN static __m512 Of(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
};

// In each quarter of 128 bits: of that quarter of a, b, c and d.
template <class Op>
VARVE_AVX512_FN __m512 Quads(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = Op::Of(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = Op::Of(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  return Op::Of(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
}
// Quarter i: of all quarters of the i-th.
template <class Op>
VARVE_AVX512_FN __m512 FoldQuads(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = Op::Of(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const __m512 cd = Op::Of(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  return Op::Of(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

// The first lanes of a quarter of a vector. A compiler that sees where the quarter comes from makes
// one VEXTRACTF32X4 of it, which may fault for lanes that are not stored, as VMOVUPS never does.
VARVE_AVX512_FN void StoreLanes(float* out, __mmask8 lanes, __m128 quarter) {
  asm("" : "+v"(quarter));
  _mm_mask_storeu_ps(out, lanes, quarter);
}

// v has page p's value of head h in lane 4 p + h: out[h * stride + p] for the first pages and
// heads.
VARVE_AVX512_FN void StoreByHead(__m512 v, uint32_t heads, uint32_t pages, float* out,
                                 size_t stride) {
  const __m512i turn = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512 by_head = _mm512_permutexvar_ps(turn, v);
  const auto lanes = static_cast<__mmask8>((1u << pages) - 1u);
  StoreLanes(out, lanes, _mm512_castps512_ps128(by_head));
  if (heads > 1) StoreLanes(out + stride, lanes, _mm512_extractf32x4_ps(by_head, 1));
  if (heads > 2) StoreLanes(out + 2 * stride, lanes, _mm512_extractf32x4_ps(by_head, 2));
  if (heads > 3) StoreLanes(out + 3 * stride, lanes, _mm512_extractf32x4_ps(by_head, 3));
}

}  // namespace varve::page::avx512

#endif  // __x86_64__
