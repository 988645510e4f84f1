// Four floats in the compiler's vector extension: what every CPU of the target family can run.
// Internal to page/simd; include inside the namespace of one kernel table only.
#define VARVE_FN [[gnu::always_inline]] inline
#define VARVE_KERNEL

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t VecInt __attribute__((vector_size(16)));
typedef uint16_t VecHalf __attribute__((vector_size(8)));
constexpr uint32_t kLanes = 4;
constexpr uint32_t kScoreRows = 2;

VARVE_FN Vec Set(float x) { return Vec{x, x, x, x}; }
VARVE_FN Vec LoadF32(const void* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
VARVE_FN VecInt LoadHalves(const void* p) {
  VecHalf h;
  std::memcpy(&h, p, sizeof(h));
  return __builtin_convertvector(h, VecInt);
}
VARVE_FN Vec LoadBF16(const void* p) { return reinterpret_cast<Vec>(LoadHalves(p) << 16); }
VARVE_FN Vec LoadF16(const void* p) {
  const VecInt h = LoadHalves(p);
  const VecInt magnitude = (h & 0x7fff) << 13;
  // The exponent bias differs by 112; the product is exact, for fp16 subnormals too.
  const Vec scaled = reinterpret_cast<Vec>(magnitude) * Set(0x1p112f);
  const VecInt special = (magnitude >= VecInt{} + (0x7c00 << 13)) & 0x7f800000;
  return reinterpret_cast<Vec>(reinterpret_cast<VecInt>(scaled) | special | ((h & 0x8000) << 16));
}
VARVE_FN Vec LoadF32Part(const float* p, uint32_t n, float fill) {
  float x[kLanes] = {fill, fill, fill, fill};
  std::memcpy(x, p, n * sizeof(float));
  return LoadF32(x);
}
VARVE_FN void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }
VARVE_FN void StorePart(float* p, uint32_t n, Vec v) { std::memcpy(p, &v, n * sizeof(float)); }
VARVE_FN void StoreF16(void* p, Vec v) {
  uint16_t h[kLanes];
  for (uint32_t i = 0; i < kLanes; ++i) h[i] = F32ToF16(v[i]);
  std::memcpy(p, h, sizeof(h));
}
VARVE_FN Vec MulAdd(Vec a, Vec b, Vec c) { return a * b + c; }
VARVE_FN Vec Max(Vec a, Vec b) { return a > b ? a : b; }
VARVE_FN Vec Min(Vec a, Vec b) { return a < b ? a : b; }
VARVE_FN Vec Abs(Vec a) {
  return reinterpret_cast<Vec>(reinterpret_cast<VecInt>(a) & int32_t{0x7fffffff});
}
VARVE_FN float Sum(Vec v) { return (v[0] + v[1]) + (v[2] + v[3]); }
VARVE_FN float MaxLane(Vec v) {
  const float a = v[0] > v[1] ? v[0] : v[1];
  const float b = v[2] > v[3] ? v[2] : v[3];
  return a > b ? a : b;
}
// 2^n for integral n in -126 .. 127.
VARVE_FN Vec Pow2(Vec n) {
  const VecInt exponent = __builtin_convertvector(n, VecInt) + 127;
  return reinterpret_cast<Vec>(exponent << 23);
}
// Nearest integer, for |x| < 2^22: adding and subtracting 1.5 * 2^23 leaves no fraction bits.
VARVE_FN Vec Round(Vec x) { return (x + Set(12582912.0f)) - Set(12582912.0f); }
// x where a >= b, else 0.
VARVE_FN Vec KeepWhereAtLeast(Vec x, Vec a, Vec b) {
  return reinterpret_cast<Vec>(reinterpret_cast<VecInt>(x) & (a >= b));
}

// Sketches: four words, and the sums of products of their codes with a quad.
using IntVec = VecInt;
typedef uint32_t VecWord __attribute__((vector_size(16)));
typedef int16_t VecShort __attribute__((vector_size(16)));
VARVE_FN IntVec SetInt(uint32_t x) { return reinterpret_cast<IntVec>(VecWord{x, x, x, x}); }
VARVE_FN IntVec LoadWords(const void* p) {
  IntVec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
VARVE_FN IntVec Codes(IntVec words, uint32_t shift, IntVec mask) {
  return reinterpret_cast<IntVec>(reinterpret_cast<VecWord>(words) >> shift) & mask;
}
// Two bytes of each word at a time; a sum of two products is below 2^12.
VARVE_FN IntVec AddDots(IntVec sums, IntVec codes, IntVec quad) {
  const auto even_codes = reinterpret_cast<VecShort>(codes & 0x00ff00ff);
  const auto odd_codes = reinterpret_cast<VecShort>((codes >> 8) & 0x00ff00ff);
  const VecShort odd = reinterpret_cast<VecShort>(quad) >> 8;
  const VecShort even = reinterpret_cast<VecShort>(quad << 8) >> 8;
  const auto pairs = reinterpret_cast<IntVec>(even_codes * even + odd_codes * odd);
  return sums + ((pairs << 16) >> 16) + (pairs >> 16);
}
VARVE_FN Vec ToFloat(IntVec v) { return __builtin_convertvector(v, Vec); }
