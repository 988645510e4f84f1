// Element types of keys, values, queries and digests, and their exact conversions.
//
// Standard library only; usable from device code. Conversions to the 16-bit types round to nearest
// even; NaN stays NaN.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define VARVE_HOST_DEVICE __host__ __device__
#else
#define VARVE_HOST_DEVICE
#endif

namespace varve::page {

enum class DType : uint8_t { kF32 = 1, kF16 = 2, kBF16 = 3 };

VARVE_HOST_DEVICE constexpr size_t DTypeBytes(DType t) { return t == DType::kF32 ? 4 : 2; }

// The greatest finite number of the type.
VARVE_HOST_DEVICE constexpr float GreatestFinite(DType t) {
  if (t == DType::kF16) return 65504.0f;
  return t == DType::kBF16 ? 0x1.fep127f : 0x1.fffffep127f;
}

namespace detail {
// std::bit_cast without the host-only function that device code may not call.
template <typename To, typename From>
VARVE_HOST_DEVICE constexpr To BitCast(From v) {
  return __builtin_bit_cast(To, v);
}
}  // namespace detail

// "f32", "f16", "bf16"; "?" for anything else.
constexpr const char* DTypeName(DType t) {
  switch (t) {
    case DType::kF32:
      return "f32";
    case DType::kF16:
      return "f16";
    case DType::kBF16:
      return "bf16";
  }
  return "?";
}

VARVE_HOST_DEVICE constexpr float BF16ToF32(uint16_t v) {
  return detail::BitCast<float>(static_cast<uint32_t>(v) << 16);
}

VARVE_HOST_DEVICE constexpr uint16_t F32ToBF16(float v) {
  const uint32_t u = detail::BitCast<uint32_t>(v);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x0040u);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

VARVE_HOST_DEVICE constexpr float F16ToF32(uint16_t v) {
  const uint32_t sign = static_cast<uint32_t>(v & 0x8000u) << 16;
  uint32_t exponent = (v >> 10) & 0x1fu;
  uint32_t mantissa = v & 0x3ffu;
  if (exponent == 0x1f) return detail::BitCast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent == 0) {
    if (mantissa == 0) return detail::BitCast<float>(sign);
    exponent = 113;  // 127 - 15 + 1
    while ((mantissa & 0x400u) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    return detail::BitCast<float>(sign | (exponent << 23) | ((mantissa & 0x3ffu) << 13));
  }
  return detail::BitCast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

VARVE_HOST_DEVICE constexpr uint16_t F32ToF16(float v) {
  const uint32_t u = detail::BitCast<uint32_t>(v);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to infinity
  if (magnitude >= 0x38800000u) {                       // normal
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
  if (magnitude < 0x33000000u) return sign;                   // rounds to zero
  const int shift = 126 - static_cast<int>(magnitude >> 23);  // 14 .. 24
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t half = 1u << (shift - 1);
  const uint32_t odd = (mantissa >> shift) & 1u;
  return static_cast<uint16_t>(sign | ((mantissa + half - 1 + odd) >> shift));
}

// Reads element i of an array of type t as float.
VARVE_HOST_DEVICE inline float LoadAsF32(const void* base, DType t, size_t i) {
  switch (t) {
    case DType::kF32:
      return static_cast<const float*>(base)[i];
    case DType::kF16:
      return F16ToF32(static_cast<const uint16_t*>(base)[i]);
    case DType::kBF16:
      return BF16ToF32(static_cast<const uint16_t*>(base)[i]);
  }
  return 0.0f;
}

VARVE_HOST_DEVICE inline void StoreF32(void* base, DType t, size_t i, float v) {
  switch (t) {
    case DType::kF32:
      static_cast<float*>(base)[i] = v;
      break;
    case DType::kF16:
      static_cast<uint16_t*>(base)[i] = F32ToF16(v);
      break;
    case DType::kBF16:
      static_cast<uint16_t*>(base)[i] = F32ToBF16(v);
      break;
  }
}

}  // namespace varve::page
