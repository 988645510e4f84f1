// Rotary position embedding of key rows: turns keys that were kept without positions (low-rank keys
// are, see ShadowKV, arXiv 2410.21465) to the bits that their engine made, and back.
//
// Every result is the same on every CPU: IEEE operations in a fixed order without fused multiply-
// add, and sines, cosines and powers of our own. The powers are rounded to nearest; cosines and
// sines are those of the rounded angle, with an error below 2^-48 before they are rounded to fp32.
// An engine whose own powers or cosines are not rounded to nearest can hand over its tables
// (RopeRows). Standard library only. Thread-safe, no exceptions, no allocation. Results assume the
// default rounding mode.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kvstore/page/dtype.h"
#include "kvstore/page/rope_parameters.h"

namespace varve::page {

// How rows are turned when cosines and sines are given.
struct RopeShape {
  uint32_t head_dim = 0;    // at most kMaxRopeHeadDim
  uint32_t rotary_dim = 0;  // even, at most head_dim; the other channels stay as they are
  RopePairing pairing = RopePairing::kRotateHalf;
  RopeRotation rotation = RopeRotation::kF32;
};

inline constexpr uint32_t kMaxRopeHeadDim = 256;

// Rows of [head_dim] elements, one after the other. `to` may be the memory of `from` when the
// dtypes are equal, and may not overlap it otherwise.
struct RopeInput {
  const void* rows = nullptr;
  DType dtype = DType::kF32;
};
struct RopeOutput {
  void* rows = nullptr;
  DType dtype = DType::kF32;
};

// Turns `tokens` rows; cos, sin: [tokens][rotary_dim / 2]. The dtype of the keys is that of `to`;
// with RopeRotation::kKeyDType the input is rounded to it first. Channels beyond rotary_dim keep
// their bits when the dtypes are equal, and are rounded otherwise.
void RopeRows(const RopeShape& shape, const float* cos, const float* sin, size_t tokens,
              const RopeInput& from, const RopeOutput& to);

// The inverse of the turn, whatever was done in which arithmetic: (x cos + y sin, y cos - x sin) /
// (cos^2 + sin^2) in fp32, as cosines and sines that were rounded to 16 bits are off the unit
// circle. shape.rotation is not used. Of a pair p that was turned in a dtype with the unit roundoff
// u (2^-24 f32, 2^-11 f16, 2^-8 bf16) the inverse in fp32 is off by at most (e + 2^-21) |p|, with e
// = 2 u when it was turned in fp32 and e = 4 u in the dtype of the keys; rounding to another `to`
// adds that rounding. Values of f16 below 2^-14 in magnitude add 2^-23.
void UnropeRows(const RopeShape& shape, const float* cos, const float* sin, size_t tokens,
                const RopeInput& from, const RopeOutput& to);

// The frequencies of some parameters.
class RopeTable {
 public:
  // REQUIRES: parameters.Invalid(head_dim) has nothing to say, and head_dim <= kMaxRopeHeadDim.
  RopeTable(const RopeParameters& parameters, uint32_t head_dim);

  const RopeParameters& parameters() const { return parameters_; }
  const RopeShape& shape() const { return shape_; }
  // f_i after scaling, [rotary_dim / 2]. With RopeAngles::kF32 all are fp32 values.
  std::span<const double> frequencies() const {
    return std::span(frequencies_).first(shape_.rotary_dim / 2);
  }

  // One row of the cos/sin table, rounded to the table's dtype; cos, sin: [rotary_dim / 2]. With
  // RopeAngles::kF32 a position above 2^24 is rounded to fp32, as in an engine.
  void CosSin(uint32_t position, float* cos, float* sin) const;

  // Row t is turned to positions[t]; see RopeRows and UnropeRows.
  void Apply(std::span<const uint32_t> positions, const RopeInput& from,
             const RopeOutput& to) const;
  void Unapply(std::span<const uint32_t> positions, const RopeInput& from,
               const RopeOutput& to) const;

 private:
  void TurnEach(std::span<const uint32_t> positions, const RopeInput& from, const RopeOutput& to,
                decltype(RopeRows)* turn) const;

  const RopeParameters parameters_;
  const RopeShape shape_;
  std::array<double, kMaxRopeHeadDim / 2> frequencies_{};
};

}  // namespace varve::page
