// Rotary embeddings for the tests, and what they do to a key written down in float64.
#pragma once

#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include "kvstore/page/rope.h"
#include "tests/unit/page/test_data.h"

namespace varve::page::testing {

inline RopeParameters Llama31() {
  RopeParameters rope;
  rope.theta = 500000;
  rope.rotary_dim = 128;
  rope.scaling = RopeScaling::kLlama3;
  rope.factor = 8;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_max_position = 8192;
  return rope;
}

// Valid for keys of head_dim channels.
inline RopeParameters AnyRope(Rng& rng, uint32_t head_dim) {
  constexpr double kThetas[] = {10000, 500000, 1e6, 123.25};
  RopeParameters rope;
  rope.theta = kThetas[rng.Below(4)];
  rope.rotary_dim = rng.Chance(0.5) ? head_dim : 2 * rng.Between(2, head_dim / 2);
  rope.pairing = static_cast<RopePairing>(rng.Between(1, 2));
  rope.scaling = static_cast<RopeScaling>(rng.Between(1, 4));
  if (rope.scaling != RopeScaling::kNone) rope.factor = 1 + 0.25 * rng.Below(40);
  if (rope.scaling == RopeScaling::kLlama3) {
    rope.low_freq_factor = 0.5 * rng.Between(1, 4);
    rope.high_freq_factor = rope.low_freq_factor + rng.Between(1, 8);
    rope.original_max_position = 1024u << rng.Below(4);
  }
  rope.arithmetic = {static_cast<RopeAngles>(rng.Between(1, 2)), rng.AnyDType(),
                     static_cast<RopeRotation>(rng.Between(1, 2))};
  return rope;
}

// Half of the distance between neighbours, as a share of the value.
inline double UnitRoundoff(DType dtype) {
  return dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
}

// The frequency of pair i by the published formulas.
inline double ReferenceFrequency(const RopeParameters& rope, uint32_t i) {
  const double d = rope.rotary_dim;
  const double theta = rope.scaling == RopeScaling::kNtk
                           ? rope.theta * std::pow(rope.factor, d / (d - 2))
                           : rope.theta;
  const double f = std::pow(theta, -2.0 * i / d);
  if (rope.scaling == RopeScaling::kLinear) return f / rope.factor;
  if (rope.scaling != RopeScaling::kLlama3) return f;
  const double turns = rope.original_max_position * f / (2 * std::numbers::pi);
  if (turns > rope.high_freq_factor) return f;
  if (turns < rope.low_freq_factor) return f / rope.factor;
  const double s = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - s) * f / rope.factor + s * f;
}

// The channels of pair i.
inline std::pair<uint32_t, uint32_t> PairOf(const RopeParameters& rope, uint32_t i) {
  if (rope.pairing == RopePairing::kInterleaved) return {2 * i, 2 * i + 1};
  return {i, i + rope.rotary_dim / 2};
}

// A row turned to a position in float64.
inline std::vector<double> ReferenceTurn(const RopeParameters& rope, const std::vector<double>& key,
                                         double position) {
  std::vector<double> turned = key;
  for (uint32_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const auto [first, second] = PairOf(rope, i);
    const double angle = position * ReferenceFrequency(rope, i);
    turned[first] = key[first] * std::cos(angle) - key[second] * std::sin(angle);
    turned[second] = key[second] * std::cos(angle) + key[first] * std::sin(angle);
  }
  return turned;
}

inline std::vector<double> Decode(const std::vector<std::byte>& rows, DType dtype) {
  std::vector<double> values(rows.size() / DTypeBytes(dtype));
  for (size_t i = 0; i < values.size(); ++i) values[i] = LoadAsF32(rows.data(), dtype, i);
  return values;
}

}  // namespace varve::page::testing
