// How a model turned its keys and queries by their positions (rotary position embedding, RoPE; Su
// et al., arXiv 2104.09864), and with which arithmetic its engine did it.
//
// Channels form pairs; pair i of a token at position m is turned by the angle m * f_i, where f_i =
// theta^(-2i / rotary_dim) before scaling. Two engines turn a key to the same bits only when they
// agree in all of these fields. Standard library only. Immutable values, thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kvstore/page/dtype.h"

namespace varve::page {

// What a model that was extended to longer contexts does to the frequencies.
enum class RopeScaling : uint32_t {
  kNone = 1,
  kLinear = 2,  // f / factor
  kNtk = 3,     // theta * factor^(d / (d - 2)) in the place of theta, d = rotary_dim
  // Llama 3.1: f where the wavelength 2 pi / f is below original / high, f / factor where it is
  // above original / low, and between them ((1 - s) / factor + s) f with
  // s = (original / wavelength - low) / (high - low).
  kLlama3 = 4,
};

// The channels of pair i, with h = rotary_dim / 2.
enum class RopePairing : uint32_t {
  kRotateHalf = 1,   // i and i + h (GPT-NeoX, Llama)
  kInterleaved = 2,  // 2i and 2i + 1 (GPT-J)
};

// Frequencies and angles. What is named is rounded to nearest, and each operation of the scaling.
enum class RopeAngles : uint32_t {
  kF32 = 1,  // 2i / d, theta^(2i / d), its reciprocal, position * f: fp32, as the public engines do
  kF64 = 2,  // 2i / d, theta^(-2i / d) (not a reciprocal that is rounded again), position * f: fp64
};

// The products and the sum (x cos - y sin, y cos + x sin).
enum class RopeRotation : uint32_t {
  kF32 = 1,       // in fp32, each rounded to fp32, no fused multiply-add; rounded to the dtype once
  kKeyDType = 2,  // each rounded to the dtype of the keys, as a PyTorch model of 16 bits does
};

struct RopeArithmetic {
  RopeAngles angles = RopeAngles::kF32;
  DType table = DType::kF32;  // cosines and sines are rounded to it
  RopeRotation rotation = RopeRotation::kF32;
  friend bool operator==(const RopeArithmetic&, const RopeArithmetic&) = default;
};

struct RopeParameters {
  double theta = 0;         // above 1, at most 1e15
  uint32_t rotary_dim = 0;  // leading channels that are turned: even, at most head_dim
  RopePairing pairing = RopePairing::kRotateHalf;
  RopeScaling scaling = RopeScaling::kNone;
  // What the scaling does not use is 0, so that equal embeddings compare equal.
  double factor = 0;                   // linear, ntk, llama3: 1 .. 1e6
  double low_freq_factor = 0;          // llama3: above 0
  double high_freq_factor = 0;         // llama3: above low_freq_factor by 1/1024 of itself or more
  uint32_t original_max_position = 0;  // llama3: at least 1
  RopeArithmetic arithmetic;

  friend bool operator==(const RopeParameters&, const RopeParameters&) = default;

  // What is wrong for keys of head_dim channels and what is allowed, or nothing.
  std::optional<std::string> Invalid(uint32_t head_dim) const;
  // "theta 500000 d128 rotate_half llama3(8, 1, 4, 8192) angles f32 table bf16 rotation key_dtype".
  // Different for different parameters.
  std::string ToString() const;
};

}  // namespace varve::page
