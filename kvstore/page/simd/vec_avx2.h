// Eight floats in AVX2 with FMA and F16C. Internal to page/simd; include inside the namespace of
// one kernel table only.
#define VARVE_FN [[gnu::always_inline]] VARVE_TARGET_AVX2 inline
#define VARVE_KERNEL VARVE_TARGET_AVX2

using Vec = __m256;
constexpr uint32_t kLanes = 8;
constexpr uint32_t kScoreRows = 2;

VARVE_FN Vec Set(float x) { return _mm256_set1_ps(x); }
VARVE_FN Vec LoadF32(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
VARVE_FN Vec LoadBF16(const void* p) {
  const __m128i h = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
VARVE_FN Vec LoadF16(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
VARVE_FN Vec LoadF32Part(const float* p, uint32_t n, float fill) {
  float x[kLanes] = {fill, fill, fill, fill, fill, fill, fill, fill};
  std::memcpy(x, p, n * sizeof(float));
  return LoadF32(x);
}
VARVE_FN void Store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
VARVE_FN void StorePart(float* p, uint32_t n, Vec v) {
  float x[kLanes];
  Store(x, v);
  std::memcpy(p, x, n * sizeof(float));
}
VARVE_FN void StoreF16(void* p, Vec v) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
VARVE_FN Vec MulAdd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
VARVE_FN Vec Max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
VARVE_FN Vec Min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
VARVE_FN Vec Abs(Vec a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
VARVE_FN float Sum(Vec v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
VARVE_FN float MaxLane(Vec v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
// 2^n for integral n in -126 .. 127.
VARVE_FN Vec Pow2(Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
VARVE_FN Vec Round(Vec x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x where a >= b, else 0.
VARVE_FN Vec KeepWhereAtLeast(Vec x, Vec a, Vec b) {
  return _mm256_and_ps(x, _mm256_cmp_ps(a, b, _CMP_GE_OQ));
}

// Sketches: eight words, and the sums of products of their codes with a quad.
using IntVec = __m256i;
VARVE_FN IntVec SetInt(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
VARVE_FN IntVec LoadWords(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
VARVE_FN IntVec Codes(IntVec words, uint32_t shift, IntVec mask) {
  return _mm256_and_si256(_mm256_srli_epi32(words, static_cast<int>(shift)), mask);
}
#ifndef VARVE_VNNI
VARVE_FN IntVec AddDots(IntVec sums, IntVec codes, IntVec quad) {
  const IntVec pairs = _mm256_maddubs_epi16(codes, quad);  // below 2^12
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
#endif
VARVE_FN Vec ToFloat(IntVec v) { return _mm256_cvtepi32_ps(v); }
