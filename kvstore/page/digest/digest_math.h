// The scalar truth of digest values, shared by the CPU and the CUDA twin: both evaluate exactly
// these expressions in token order, uncontracted, so their bytes are equal. Keys are finite here.
#pragma once

#include <cmath>

#include "kvstore/page/dtype.h"

namespace varve::page::digest_math {

// Comparisons instead of fmax: -0 and +0 may swap here, and StoreCanonical removes the difference.
VARVE_HOST_DEVICE inline float Max(float a, float b) { return a > b ? a : b; }
VARVE_HOST_DEVICE inline float Min(float a, float b) { return a < b ? a : b; }

// Halves first: max + min may overflow where the centre does not.
VARVE_HOST_DEVICE inline float Center(float hi, float lo) { return 0.5f * hi + 0.5f * lo; }

VARVE_HOST_DEVICE inline float Deviation(float key, float center) {
  const float difference = key - center;
  return difference < 0 ? -difference : difference;
}

// Clamped to the box: a sum that overflowed, or a rounding up, must not make a shrunk digest exceed
// MINMAX.
VARVE_HOST_DEVICE inline float ShrunkHi(float hi, float center, float half) {
  return Min(center + half, hi);
}
VARVE_HOST_DEVICE inline float ShrunkLo(float lo, float center, float half) {
  return Max(center - half, lo);
}
VARVE_HOST_DEVICE inline float Mean(float sum, float tokens, float hi, float lo) {
  return Max(Min(sum / tokens, hi), lo);
}

// Rounds to the dtype and stores; a zero of either sign is stored as +0, also one that rounding
// produced.
VARVE_HOST_DEVICE inline void StoreCanonical(void* out, DType dtype, size_t i, float v) {
  switch (dtype) {
    case DType::kF32:
      static_cast<float*>(out)[i] = v + 0.0f;
      break;
    case DType::kF16: {
      const uint16_t bits = F32ToF16(v);
      static_cast<uint16_t*>(out)[i] = (bits & 0x7fffu) == 0 ? uint16_t{0} : bits;
      break;
    }
    case DType::kBF16: {
      const uint16_t bits = F32ToBF16(v);
      static_cast<uint16_t*>(out)[i] = (bits & 0x7fffu) == 0 ? uint16_t{0} : bits;
      break;
    }
  }
}

// Stores a finite number that is not negative, rounded up. `value` is far below the dtype's
// greatest.
VARVE_HOST_DEVICE inline void StoreUp(void* out, DType dtype, size_t i, double value) {
  float rounded = static_cast<float>(value);
  if (rounded < value) rounded = detail::BitCast<float>(detail::BitCast<uint32_t>(rounded) + 1);
  if (dtype == DType::kF32) {
    static_cast<float*>(out)[i] = rounded;
    return;
  }
  uint16_t bits = dtype == DType::kF16 ? F32ToF16(rounded) : F32ToBF16(rounded);
  const float stored = dtype == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
  static_cast<uint16_t*>(out)[i] = stored < rounded ? static_cast<uint16_t>(bits + 1) : bits;
}

// |key - center|^2, summed in eight parts: the order is part of the value. head_dim is a multiple
// of 8.
template <DType kType>
VARVE_HOST_DEVICE inline double SquaredDistance(const void* keys, size_t first, const float* center,
                                                uint32_t head_dim) {
  double parts[8] = {};
  for (uint32_t i = 0; i < head_dim; i += 8) {
    for (uint32_t j = 0; j < 8; ++j) {
      const double difference = static_cast<double>(LoadAsF32(keys, kType, first + i + j)) -
                                static_cast<double>(center[i + j]);
      parts[j] += difference * difference;
    }
  }
  return ((parts[0] + parts[4]) + (parts[2] + parts[6])) +
         ((parts[1] + parts[5]) + (parts[3] + parts[7]));
}

// The radius element of a squared distance that is at least what those sums came to.
VARVE_HOST_DEVICE inline void StoreRadius(void* out, DType dtype, size_t i, double squared,
                                          float scale) {
  constexpr double kRoundingOfTheSums = 1.0 + 0x1p-40;
  StoreUp(out, dtype, i, sqrt(squared) * kRoundingOfTheSums / scale);
}

}  // namespace varve::page::digest_math
