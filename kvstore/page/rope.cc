#include "kvstore/page/rope.h"

#include <cmath>
#include <cstring>
#include <numbers>

#include "kvstore/page/simd/cpu_features.h"

namespace varve::page {
namespace {

// hi + lo, with |lo| at most half an ulp of hi: twice the digits of a double.
struct DoubleDouble {
  double hi = 0;
  double lo = 0;
};

DoubleDouble Multiply(const DoubleDouble& a, const DoubleDouble& b) {
  const double hi = a.hi * b.hi;
  const double lo = std::fma(a.hi, b.hi, -hi) + (a.hi * b.lo + a.lo * b.hi);
  const double sum = hi + lo;
  return {sum, lo - (sum - hi)};
}

DoubleDouble SquareRoot(const DoubleDouble& a) {
  const double root = std::sqrt(a.hi);
  const double rest = (std::fma(-root, root, a.hi) + a.lo) / (2 * root);
  const double sum = root + rest;
  return {sum, rest - (sum - root)};
}

DoubleDouble Inverse(const DoubleDouble& a) {
  const double first = 1 / a.hi;
  const double rest = first * (std::fma(-a.hi, first, 1.0) - a.lo * first);
  const double sum = first + rest;
  return {sum, rest - (sum - first)};
}

// base^exponent from the binary digits of the exponent: no library agrees with another on a power
// to the last bit, square roots they all round alike. REQUIRES: base > 0, 0 <= exponent <= 2.
DoubleDouble Power(double base, double exponent) {
  DoubleDouble root{base, 0};
  DoubleDouble power{1, 0};
  for (; exponent >= 1; exponent -= 1) power = Multiply(power, root);
  while (exponent > 0) {
    root = SquareRoot(root);
    exponent *= 2;
    if (exponent >= 1) {
      power = Multiply(power, root);
      exponent -= 1;
    }
  }
  return power;
}

double Theta(const RopeParameters& rope) {
  if (rope.scaling != RopeScaling::kNtk) return rope.theta;
  const double d = rope.rotary_dim;
  return rope.theta * Power(rope.factor, d / (d - 2)).hi;
}

// theta^(-2i / d), with the roundings that it has in an engine's fp32.
float Frequency(float theta, uint32_t i, uint32_t d) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(d);
  return 1.0f / static_cast<float>(Power(theta, exponent).hi);
}

double Frequency(double theta, uint32_t i, uint32_t d) {
  return Inverse(Power(theta, 2.0 * i / d)).hi;
}

// The order of the operations is that of the public implementation (Hugging Face transformers,
// _compute_llama3_parameters), where a scalar over a tensor is the scalar times the reciprocal.
template <typename T>
T ScaledByLlama3(const RopeParameters& rope, T frequency) {
  const double original = rope.original_max_position;
  const T wavelength = T{1} / frequency * static_cast<T>(2 * std::numbers::pi);
  if (wavelength < static_cast<T>(original / rope.high_freq_factor)) return frequency;
  if (wavelength > static_cast<T>(original / rope.low_freq_factor)) {
    return frequency / static_cast<T>(rope.factor);
  }
  const T smooth =
      (T{1} / wavelength * static_cast<T>(original) - static_cast<T>(rope.low_freq_factor)) /
      static_cast<T>(rope.high_freq_factor - rope.low_freq_factor);
  return (T{1} - smooth) * frequency / static_cast<T>(rope.factor) + smooth * frequency;
}

template <typename T>
void FillFrequencies(const RopeParameters& rope, double* frequencies) {
  const T theta = static_cast<T>(Theta(rope));
  for (uint32_t i = 0; i < rope.rotary_dim / 2; ++i) {
    T frequency = Frequency(theta, i, rope.rotary_dim);
    if (rope.scaling == RopeScaling::kLinear) frequency /= static_cast<T>(rope.factor);
    if (rope.scaling == RopeScaling::kLlama3) frequency = ScaledByLlama3(rope, frequency);
    frequencies[i] = frequency;
  }
}

struct Turn {
  double cos;
  double sin;
};

// |angle| <= 1.5 * 2^32: positions are below 2^32 or rounded to it, and llama3's share s, which is
// within 2^-11 of 0 .. 1, may take a frequency a little beyond 1 or below 0. pi / 2 in pieces of 21
// bits, so that a quadrant's multiple of each is exact; then Taylor series, whose first term left
// out is below 2^-58 of the result.
inline Turn CosSinOf(double angle) {
  constexpr double kPieces[] = {0x1.921fb0p+0, 0x1.5110b0p-22, 0x1.184690p-44,
                                0x1.13198a2e03707p-65};
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kToInteger = 0x1.8p52;  // added, it leaves the nearest integer in the low bits
  const double shifted = angle * kTwoOverPi + kToInteger;
  const double n = shifted - kToInteger;
  const auto quadrant = detail::BitCast<uint64_t>(shifted);
  double r = angle;
  for (const double piece : kPieces) r -= n * piece;
  const double z = r * r;
  double sin = 1.0 / 355687428096000;  // 17!
  sin = sin * z - 1.0 / 1307674368000;
  sin = sin * z + 1.0 / 6227020800;
  sin = sin * z - 1.0 / 39916800;
  sin = sin * z + 1.0 / 362880;
  sin = sin * z - 1.0 / 5040;
  sin = sin * z + 1.0 / 120;
  sin = sin * z - 1.0 / 6;
  sin = r + r * z * sin;
  double cos = 1.0 / 20922789888000;  // 16!
  cos = cos * z - 1.0 / 87178291200;
  cos = cos * z + 1.0 / 479001600;
  cos = cos * z - 1.0 / 3628800;
  cos = cos * z + 1.0 / 40320;
  cos = cos * z - 1.0 / 720;
  cos = cos * z + 1.0 / 24;
  cos = cos * z - 0.5;
  cos = 1 + z * cos;
  const double turned_cos = (quadrant & 1) != 0 ? sin : cos;
  const double turned_sin = (quadrant & 1) != 0 ? cos : sin;
  return {((quadrant + 1) & 2) != 0 ? -turned_cos : turned_cos,
          (quadrant & 2) != 0 ? -turned_sin : turned_sin};
}

struct ToF32 {
  float operator()(float v) const { return v; }
};
struct ToF16 {
  float operator()(float v) const { return F16ToF32(F32ToF16(v)); }
};
struct ToBF16 {
  float operator()(float v) const { return BF16ToF32(F32ToBF16(v)); }
};

// Calls fn with what rounds an fp32 value to the dtype.
template <typename Fn>
void WithRounding(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::kF32:
      return fn(ToF32{});
    case DType::kF16:
      return fn(ToF16{});
    case DType::kBF16:
      return fn(ToBF16{});
  }
}

void RoundTo(DType dtype, float* values, size_t count) {
  if (dtype == DType::kF32) return;
  WithRounding(dtype, [&](auto round) {
    for (size_t i = 0; i < count; ++i) values[i] = round(values[i]);
  });
}

void Widen(const void* from, DType dtype, size_t count, float* to) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, count * sizeof(float));
      break;
    case DType::kF16:
      for (size_t i = 0; i < count; ++i) to[i] = F16ToF32(static_cast<const uint16_t*>(from)[i]);
      break;
    case DType::kBF16:
      for (size_t i = 0; i < count; ++i) to[i] = BF16ToF32(static_cast<const uint16_t*>(from)[i]);
      break;
  }
}

void Narrow(const float* from, DType dtype, size_t count, void* to) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, count * sizeof(float));
      break;
    case DType::kF16:
      for (size_t i = 0; i < count; ++i) static_cast<uint16_t*>(to)[i] = F32ToF16(from[i]);
      break;
    case DType::kBF16:
      for (size_t i = 0; i < count; ++i) static_cast<uint16_t*>(to)[i] = F32ToBF16(from[i]);
      break;
  }
}

// fn(first, second, cos, sin) changes both channels of each pair.
template <typename Fn>
void ForEachPair(const RopeShape& shape, const float* cos, const float* sin, float* row, Fn fn) {
  const uint32_t half = shape.rotary_dim / 2;
  if (shape.pairing == RopePairing::kRotateHalf) {
    for (uint32_t i = 0; i < half; ++i) fn(row[i], row[i + half], cos[i], sin[i]);
  } else {
    for (uint32_t i = 0; i < half; ++i) fn(row[2 * i], row[2 * i + 1], cos[i], sin[i]);
  }
}

// turn(row, t) changes the leading rotary_dim values of row t.
template <typename Turning>
void TurnRows(const RopeShape& shape, size_t tokens, const RopeInput& from, const RopeOutput& to,
              const Turning& turn) {
  std::array<float, kMaxRopeHeadDim> row;
  const size_t from_bytes = shape.head_dim * DTypeBytes(from.dtype);
  const size_t to_bytes = shape.head_dim * DTypeBytes(to.dtype);
  const auto* in = static_cast<const std::byte*>(from.rows);
  auto* out = static_cast<std::byte*>(to.rows);
  // A copy keeps what a conversion may not: the payload of a NaN.
  const bool copies_rest = from.dtype == to.dtype;
  const uint32_t through_f32 = copies_rest ? shape.rotary_dim : shape.head_dim;
  const size_t rest = shape.rotary_dim * DTypeBytes(from.dtype);
  for (size_t t = 0; t < tokens; ++t, in += from_bytes, out += to_bytes) {
    Widen(in, from.dtype, through_f32, row.data());
    turn(row.data(), t);
    Narrow(row.data(), to.dtype, through_f32, out);
    if (copies_rest && in != out) std::memcpy(out + rest, in + rest, from_bytes - rest);
  }
}

// The same operations in wider vectors, so the same bits: nothing is fused in this file.
using RopeRowsFn = decltype(RopeRows)*;

inline void RopeRowsBody(const RopeShape& shape, const float* cos, const float* sin, size_t tokens,
                         const RopeInput& from, const RopeOutput& to) {
  const uint32_t half = shape.rotary_dim / 2;
  const DType steps = shape.rotation == RopeRotation::kKeyDType ? to.dtype : DType::kF32;
  WithRounding(steps, [&](auto round) {
    TurnRows(shape, tokens, from, to, [&](float* row, size_t t) {
      RoundTo(steps, row, shape.rotary_dim);
      ForEachPair(shape, cos + t * half, sin + t * half, row,
                  [round](float& x, float& y, float c, float s) {
                    const float first = round(round(x * c) - round(y * s));
                    y = round(round(y * c) + round(x * s));
                    x = first;
                  });
    });
  });
}

[[gnu::flatten]] void RopeRowsPortable(const RopeShape& shape, const float* cos, const float* sin,
                                       size_t tokens, const RopeInput& from, const RopeOutput& to) {
  RopeRowsBody(shape, cos, sin, tokens, from, to);
}

#if defined(__x86_64__)
[[gnu::flatten]] VARVE_TARGET_AVX2 void RopeRowsAvx2(const RopeShape& shape, const float* cos,
                                                     const float* sin, size_t tokens,
                                                     const RopeInput& from, const RopeOutput& to) {
  RopeRowsBody(shape, cos, sin, tokens, from, to);
}

[[gnu::flatten]] VARVE_TARGET_AVX512 void RopeRowsAvx512(const RopeShape& shape, const float* cos,
                                                         const float* sin, size_t tokens,
                                                         const RopeInput& from,
                                                         const RopeOutput& to) {
  RopeRowsBody(shape, cos, sin, tokens, from, to);
}
#endif

RopeRowsFn ChooseRopeRows() {
#if defined(__x86_64__)
  if (Cpu().avx512) return RopeRowsAvx512;
  if (Cpu().avx2) return RopeRowsAvx2;
#endif
  return RopeRowsPortable;
}

}  // namespace

void RopeRows(const RopeShape& shape, const float* cos, const float* sin, size_t tokens,
              const RopeInput& from, const RopeOutput& to) {
  static const RopeRowsFn rows = ChooseRopeRows();
  rows(shape, cos, sin, tokens, from, to);
}

void UnropeRows(const RopeShape& shape, const float* cos, const float* sin, size_t tokens,
                const RopeInput& from, const RopeOutput& to) {
  const uint32_t half = shape.rotary_dim / 2;
  TurnRows(shape, tokens, from, to, [&](float* row, size_t t) {
    ForEachPair(shape, cos + t * half, sin + t * half, row,
                [](float& x, float& y, float c, float s) {
                  const float square = c * c + s * s;
                  const float first = (x * c + y * s) / square;
                  y = (y * c - x * s) / square;
                  x = first;
                });
  });
}

RopeTable::RopeTable(const RopeParameters& parameters, uint32_t head_dim)
    : parameters_(parameters),
      shape_{head_dim, parameters.rotary_dim, parameters.pairing, parameters.arithmetic.rotation} {
  if (parameters.arithmetic.angles == RopeAngles::kF32) {
    FillFrequencies<float>(parameters, frequencies_.data());
  } else {
    FillFrequencies<double>(parameters, frequencies_.data());
  }
}

void RopeTable::CosSin(uint32_t position, float* cos, float* sin) const {
  const uint32_t half = shape_.rotary_dim / 2;
  std::array<double, kMaxRopeHeadDim / 2> angles;
  if (parameters_.arithmetic.angles == RopeAngles::kF32) {
    const auto at = static_cast<float>(position);
    for (uint32_t i = 0; i < half; ++i) angles[i] = at * static_cast<float>(frequencies_[i]);
  } else {
    for (uint32_t i = 0; i < half; ++i) angles[i] = position * frequencies_[i];
  }
  for (uint32_t i = 0; i < half; ++i) {
    const Turn turn = CosSinOf(angles[i]);
    cos[i] = static_cast<float>(turn.cos);
    sin[i] = static_cast<float>(turn.sin);
  }
  RoundTo(parameters_.arithmetic.table, cos, half);
  RoundTo(parameters_.arithmetic.table, sin, half);
}

void RopeTable::Apply(std::span<const uint32_t> positions, const RopeInput& from,
                      const RopeOutput& to) const {
  TurnEach(positions, from, to, RopeRows);
}

void RopeTable::Unapply(std::span<const uint32_t> positions, const RopeInput& from,
                        const RopeOutput& to) const {
  TurnEach(positions, from, to, UnropeRows);
}

void RopeTable::TurnEach(std::span<const uint32_t> positions, const RopeInput& from,
                         const RopeOutput& to, decltype(RopeRows)* turn) const {
  std::array<float, kMaxRopeHeadDim / 2> cos, sin;
  const auto* in = static_cast<const std::byte*>(from.rows);
  auto* out = static_cast<std::byte*>(to.rows);
  for (const uint32_t position : positions) {
    CosSin(position, cos.data(), sin.data());
    turn(shape_, cos.data(), sin.data(), 1, {in, from.dtype}, {out, to.dtype});
    in += shape_.head_dim * DTypeBytes(from.dtype);
    out += shape_.head_dim * DTypeBytes(to.dtype);
  }
}

}  // namespace varve::page
