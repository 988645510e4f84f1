// The scalar truth of digest values, shared by the CPU and the CUDA twin: both evaluate exactly
// these expressions in token order, uncontracted, so their bytes are equal. Keys are finite here.
#pragma once

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

}  // namespace varve::page::digest_math
