#include "kvstore/page/rope_parameters.h"

#include <charconv>

namespace varve::page {
namespace {

constexpr double kMaxTheta = 1e15;
constexpr double kMaxFactor = 1e6;
// Of high_freq_factor. Nearer to each other, their fp32 difference is mostly rounding, and the
// share s that is divided by it has no bounds.
constexpr double kMinFactorGap = 0x1p-10;

// The shortest text that reads as the same number, without an exponent for usual ones.
std::string Text(double value) {
  char text[32];
  const bool usual = value == 0 || (value >= 1e-3 && value <= 1e15);
  const auto end = usual ? std::to_chars(text, text + sizeof(text), value, std::chars_format::fixed)
                         : std::to_chars(text, text + sizeof(text), value);
  return {text, end.ptr};
}

std::string Wrong(const char* what, const std::string& value, const std::string& allowed) {
  return std::string(what) + " is " + value + ", allowed: " + allowed;
}

template <typename Enum>
std::string Number(Enum value) {
  return std::to_string(static_cast<uint32_t>(value));
}

const char* Name(RopePairing pairing) {
  return pairing == RopePairing::kRotateHalf ? "rotate_half" : "interleaved";
}

const char* Name(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kNtk:
      return "ntk";
    case RopeScaling::kLlama3:
      return "llama3";
  }
  return "?";
}

std::optional<std::string> WrongChoice(const RopeParameters& rope) {
  if (rope.pairing != RopePairing::kRotateHalf && rope.pairing != RopePairing::kInterleaved) {
    return Wrong("pairing", Number(rope.pairing), "rotate_half or interleaved");
  }
  if (rope.scaling < RopeScaling::kNone || rope.scaling > RopeScaling::kLlama3) {
    return Wrong("scaling", Number(rope.scaling), "none, linear, ntk or llama3");
  }
  const RopeArithmetic& a = rope.arithmetic;
  if (a.angles != RopeAngles::kF32 && a.angles != RopeAngles::kF64) {
    return Wrong("arithmetic.angles", Number(a.angles), "f32 or f64");
  }
  if (a.table != DType::kF32 && a.table != DType::kF16 && a.table != DType::kBF16) {
    return Wrong("arithmetic.table", Number(a.table), "f32, f16 or bf16");
  }
  if (a.rotation != RopeRotation::kF32 && a.rotation != RopeRotation::kKeyDType) {
    return Wrong("arithmetic.rotation", Number(a.rotation), "f32 or key_dtype");
  }
  return std::nullopt;
}

// Comparisons are written so that a NaN fails them.
std::optional<std::string> WrongScaling(const RopeParameters& rope) {
  const std::string unused = std::string("0 with scaling ") + Name(rope.scaling);
  if (rope.scaling == RopeScaling::kNone) {
    if (rope.factor != 0) return Wrong("factor", Text(rope.factor), unused);
  } else if (!(rope.factor >= 1 && rope.factor <= kMaxFactor)) {
    return Wrong("factor", Text(rope.factor), "1..1e6");
  }
  if (rope.scaling != RopeScaling::kLlama3) {
    if (rope.low_freq_factor != 0) {
      return Wrong("low_freq_factor", Text(rope.low_freq_factor), unused);
    }
    if (rope.high_freq_factor != 0) {
      return Wrong("high_freq_factor", Text(rope.high_freq_factor), unused);
    }
    if (rope.original_max_position != 0) {
      return Wrong("original_max_position", std::to_string(rope.original_max_position), unused);
    }
    return std::nullopt;
  }
  if (!(rope.low_freq_factor > 0 && rope.low_freq_factor <= kMaxFactor)) {
    return Wrong("low_freq_factor", Text(rope.low_freq_factor), "above 0, at most 1e6");
  }
  const double gap = rope.high_freq_factor - rope.low_freq_factor;
  if (!(rope.high_freq_factor > rope.low_freq_factor &&
        gap >= kMinFactorGap * rope.high_freq_factor && rope.high_freq_factor <= kMaxFactor)) {
    return Wrong("high_freq_factor", Text(rope.high_freq_factor),
                 "above low_freq_factor (" + Text(rope.low_freq_factor) +
                     ") by 1/1024 of itself or more, at most 1e6");
  }
  if (rope.original_max_position == 0) {
    return Wrong("original_max_position", "0", "at least 1");
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> RopeParameters::Invalid(uint32_t head_dim) const {
  if (!(theta > 1 && theta <= kMaxTheta)) {
    return Wrong("theta", Text(theta), "above 1, at most 1e15");
  }
  if (rotary_dim < 2 || rotary_dim > head_dim || rotary_dim % 2 != 0) {
    return Wrong("rotary_dim", std::to_string(rotary_dim),
                 "even, 2.." + std::to_string(head_dim) + " (head_dim)");
  }
  if (auto wrong = WrongChoice(*this)) return wrong;
  if (scaling == RopeScaling::kNtk && rotary_dim < 4) {
    return Wrong("rotary_dim", std::to_string(rotary_dim), "at least 4 with scaling ntk");
  }
  return WrongScaling(*this);
}

std::string RopeParameters::ToString() const {
  std::string text = "theta " + Text(theta) + " d" + std::to_string(rotary_dim) + " " +
                     Name(pairing) + " " + Name(scaling);
  if (scaling == RopeScaling::kLlama3) {
    text += "(" + Text(factor) + ", " + Text(low_freq_factor) + ", " + Text(high_freq_factor) +
            ", " + std::to_string(original_max_position) + ")";
  } else if (scaling != RopeScaling::kNone) {
    text += "(" + Text(factor) + ")";
  }
  text += arithmetic.angles == RopeAngles::kF32 ? " angles f32" : " angles f64";
  text += std::string(" table ") + DTypeName(arithmetic.table);
  text += arithmetic.rotation == RopeRotation::kF32 ? " rotation f32" : " rotation key_dtype";
  return text;
}

}  // namespace varve::page
