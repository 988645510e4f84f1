// The scalar truth of key sketches (SIGN1, SIGN2, SIGN4), shared by the CPU and the CUDA twin: both
// evaluate exactly these expressions, uncontracted, so their bytes, and the integers of a query,
// are equal. Keys are finite here.
//
// Rotation: blocks of n channels, n the largest power of two that divides head_dim, each times the
// n x n Hadamard matrix H by butterflies of strides 1, 2, 4 .. n/2. The keys' butterflies halve, so
// that nothing overflows: k' = H k / n. The query's do not: q' = H q. So q.k = q'.k'.
// Per token: the mean m of k' over all channels, which is the sum of the first channels of k of all
// blocks over head_dim, in that order in fp64, to bf16; r = k' - m in fp32; scale s = mean |r| for
// one bit, 0.49786 rms(r) for two, 0.16760 rms(r) for four (half the step of the uniform quantiser
// that is best for normal values), sums in fp64 in eight parts (channel modulo 8), to bf16; code
// the number of j in 1 .. 2^b - 1 with r >= s (2j - 2^b), the nearest level, of two the upper.
// Roundings are to nearest even, beyond bf16's greatest number to that, and zeros are +0.
// A query is rounded to integers of -n .. n: q'_i is about qs qi_i with qs = max |q'| / n, n 127,
// for one bit 63: there four integers add up to less than a byte holds, so that a table has what
// four channels come to (simd/sketch_avx512_vbmi.cc), and what rounding loses is little beside what
// the sketch has lost (docs/performance.md).
#pragma once

#include <cmath>
#include <cstdint>

#include "kvstore/page/dtype.h"

namespace varve::page::sketch_math {

constexpr uint32_t kMaxHeadDim = 256;

VARVE_HOST_DEVICE inline uint32_t HadamardSize(uint32_t head_dim) {
  return head_dim & (~head_dim + 1);
}

VARVE_HOST_DEVICE inline void KeyButterfly(float& a, float& b) {
  const float x = 0.5f * a;
  const float y = 0.5f * b;
  a = x + y;
  b = x - y;
}
VARVE_HOST_DEVICE inline void QueryButterfly(float& a, float& b) {
  const float x = a;
  const float y = b;
  a = x + y;
  b = x - y;
}

// The bits of a number in bf16 that is finite in any case.
VARVE_HOST_DEVICE inline uint16_t FiniteBF16(double v) {
  constexpr double kGreatest = 0x1.fep127;
  v = v < kGreatest ? v : kGreatest;
  v = v > -kGreatest ? v : -kGreatest;
  const uint16_t bits = F32ToBF16(static_cast<float>(v));
  return (bits & 0x7fffu) == 0 ? uint16_t{0} : bits;
}

// sum: of the first channels of the blocks.
VARVE_HOST_DEVICE inline uint16_t Mean(double sum, uint32_t head_dim) {
  return FiniteBF16(sum / head_dim);
}

// What the scale sums up.
VARVE_HOST_DEVICE inline double Spread(float residual, uint32_t bits) {
  const double r = residual;
  return bits > 1 ? r * r : (r < 0 ? -r : r);
}
VARVE_HOST_DEVICE inline double SumOfParts(const double* parts) {
  return ((parts[0] + parts[4]) + (parts[2] + parts[6])) +
         ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}
VARVE_HOST_DEVICE inline uint16_t Scale(double sum, uint32_t head_dim, uint32_t bits) {
  const double mean = sum / head_dim;
  if (bits == 1) return FiniteBF16(mean);
  return FiniteBF16((bits == 2 ? 0.49786 : 0.16760) * sqrt(mean));
}

// By halving: the comparisons of the levels between are exact, a bf16 times a small integer.
VARVE_HOST_DEVICE inline uint32_t Code(float residual, float scale, uint32_t bits) {
  const int levels = 1 << bits;
  int code = 0;
  for (int step = levels / 2; step > 0; step /= 2) {
    const int upper = code + step;
    if (residual >= scale * static_cast<float>(2 * upper - levels)) code = upper;
  }
  return static_cast<uint32_t>(code);
}

// Bit of channel c's code in its word, c / (32 / bits).
VARVE_HOST_DEVICE inline uint32_t Shift(uint32_t c, uint32_t bits) {
  const uint32_t r = c % (32 / bits);
  return r % 4 * 8 + r / 4 * bits;
}

// Where the query counts as zero: its step would have lost digits.
constexpr float kLeastQuery = 0x1p-100f;

// The greatest integer of a query against codes of so many bits.
VARVE_HOST_DEVICE inline float GreatestInteger(uint32_t bits) { return bits == 1 ? 63.0f : 127.0f; }

// qs from the greatest |q'|; 0 for a query that counts as zero.
VARVE_HOST_DEVICE inline float QueryStep(float greatest, uint32_t bits) {
  return greatest >= kLeastQuery ? greatest / GreatestInteger(bits) : 0.0f;
}
VARVE_HOST_DEVICE inline int8_t QueryInteger(float rotated, float step, uint32_t bits) {
  if (step == 0.0f) return 0;
  const float limit = GreatestInteger(bits);
  float v = rotated / step;
  // In this order a NaN, which a query that overflows may hold, is a number too.
  v = v > -limit ? v : -limit;
  v = v < limit ? v : limit;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: leaves no fraction bits
  return static_cast<int8_t>((v + kRound) - kRound);
}

}  // namespace varve::page::sketch_math
