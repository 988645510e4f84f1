// Sixteen floats in AVX-512. Internal to page/simd; include inside the namespace of one kernel
// table only.
#define VARVE_FN [[gnu::always_inline]] VARVE_TARGET_AVX512 inline
#define VARVE_KERNEL VARVE_TARGET_AVX512
#define VARVE_HALF_VECTORS

using Vec = __m512;
constexpr uint32_t kLanes = 16;
constexpr uint32_t kScoreRows = 4;

VARVE_FN Vec Set(float x) { return _mm512_set1_ps(x); }
VARVE_FN Vec LoadF32(const void* p) { return _mm512_loadu_ps(p); }
VARVE_FN Vec WidenBF16(__m256i h) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
VARVE_FN Vec LoadBF16(const void* p) {
  return WidenBF16(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
VARVE_FN Vec LoadF16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
VARVE_FN __mmask16 FirstLanes(uint32_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
VARVE_FN Vec LoadF32Part(const float* p, uint32_t n, float fill) {
  return _mm512_mask_loadu_ps(Set(fill), FirstLanes(n), p);
}
VARVE_FN void Store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
VARVE_FN void StorePart(float* p, uint32_t n, Vec v) { _mm512_mask_storeu_ps(p, FirstLanes(n), v); }
VARVE_FN void StoreF16(void* p, Vec v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
// The first eight elements, the rest zero.
VARVE_FN Vec LoadHalfF32(const void* p) { return _mm512_maskz_loadu_ps(FirstLanes(8), p); }
VARVE_FN Vec LoadHalfBF16(const void* p) {
  return WidenBF16(_mm256_zextsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
VARVE_FN Vec LoadHalfF16(const void* p) {
  return _mm512_cvtph_ps(_mm256_zextsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p))));
}
VARVE_FN Vec MulAdd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
VARVE_FN Vec Max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
VARVE_FN Vec Min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
VARVE_FN Vec Abs(Vec a) { return _mm512_abs_ps(a); }
VARVE_FN float Sum(Vec v) { return _mm512_reduce_add_ps(v); }
VARVE_FN float MaxLane(Vec v) { return _mm512_reduce_max_ps(v); }
// 2^n for integral n in -126 .. 127.
VARVE_FN Vec Pow2(Vec n) { return _mm512_scalef_ps(Set(1.0f), n); }
VARVE_FN Vec Round(Vec x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
// x where a >= b, else 0.
VARVE_FN Vec KeepWhereAtLeast(Vec x, Vec a, Vec b) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GE_OQ), x);
}

// Sketches: sixteen words, and the sums of products of their codes with a quad.
using IntVec = __m512i;
VARVE_FN IntVec SetInt(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
VARVE_FN IntVec LoadWords(const void* p) { return _mm512_loadu_si512(p); }
VARVE_FN IntVec Codes(IntVec words, uint32_t shift, IntVec mask) {
  const IntVec shifted = shift == 0 ? words : _mm512_srli_epi32(words, shift);
  return _mm512_and_si512(shifted, mask);
}
#ifndef VARVE_VNNI
VARVE_FN IntVec AddDots(IntVec sums, IntVec codes, IntVec quad) {
  const IntVec pairs = _mm512_maddubs_epi16(codes, quad);  // below 2^12
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}
#endif
VARVE_FN Vec ToFloat(IntVec v) { return _mm512_cvtepi32_ps(v); }
