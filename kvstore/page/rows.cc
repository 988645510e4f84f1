#include "kvstore/page/rows.h"

#include <algorithm>
#include <cstring>

namespace varve::page {
namespace {

// Greatest magnitude bits of a run. NaN and infinity are the patterns at and above the exponent
// mask, so one integer maximum answers both questions, and the loop vectorises.
template <typename Bits>
Bits GreatestMagnitude(const void* data, size_t count) {
  constexpr Bits kMagnitude = static_cast<Bits>(~Bits{0}) >> 1;
  const auto* bytes = static_cast<const std::byte*>(data);
  Bits greatest = 0;
  for (size_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + i * sizeof(Bits), sizeof(Bits));
    greatest = std::max(greatest, static_cast<Bits>(bits & kMagnitude));
  }
  return greatest;
}

// Compares the greatest magnitude with infinity: negative below, 0 equal, positive above (NaN).
int AgainstInfinity(const void* data, size_t count, DType dtype) {
  uint32_t greatest = 0;
  uint32_t infinity = 0;
  switch (dtype) {
    case DType::kF32:
      greatest = GreatestMagnitude<uint32_t>(data, count);
      infinity = 0x7f800000u;
      break;
    case DType::kF16:
      greatest = GreatestMagnitude<uint16_t>(data, count);
      infinity = 0x7c00u;
      break;
    case DType::kBF16:
      greatest = GreatestMagnitude<uint16_t>(data, count);
      infinity = 0x7f80u;
      break;
  }
  if (greatest < infinity) return -1;
  return greatest == infinity ? 0 : 1;
}

}  // namespace

bool HasNaN(const void* data, size_t count, DType dtype) {
  return AgainstInfinity(data, count, dtype) > 0;
}

bool AllFinite(const void* data, size_t count, DType dtype) {
  return AgainstInfinity(data, count, dtype) < 0;
}

float MaxMagnitude(const void* data, size_t count, DType dtype) {
  if (dtype == DType::kF32) {
    const auto bits = GreatestMagnitude<uint32_t>(data, count);
    return LoadAsF32(&bits, dtype, 0);
  }
  const auto bits = GreatestMagnitude<uint16_t>(data, count);
  return LoadAsF32(&bits, dtype, 0);
}

}  // namespace varve::page
