// The scalar truth of score weights, shared by the CPU and the CUDA twin.
#pragma once

#include <cmath>
#include <cstdint>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/dtype.h"

namespace varve::page::score_math {

// What a stored radius counts: |q| times its scale. Longer queries than 2^121 count as that long.
VARVE_HOST_DEVICE inline float RadiusWeight(const float* q, uint32_t head_dim) {
  double sum = 0;
  for (uint32_t i = 0; i < head_dim; ++i) sum += static_cast<double>(q[i]) * q[i];
  const double weight = sqrt(sum) * kRadiusScale;
  return weight < 0x1p126 ? static_cast<float>(weight) : 0x1p126f;
}

// Weight of element i of a digest row: the score is the dot product of the row with the weights.
// [hi | lo] takes [max(q, 0) | min(q, 0)], so that hi counts where q is positive and lo where it is
// negative; [mean] takes q; [c | r] takes [q | |q|].
VARVE_HOST_DEVICE inline float Weight(DigestKind kind, const float* q, uint32_t head_dim,
                                      uint32_t i) {
  const bool first = i < head_dim;
  switch (kind) {
    case DigestKind::kMean:
      return q[i];
    case DigestKind::kSphere:
      if (i == head_dim) return RadiusWeight(q, head_dim);
      return first ? q[i] : 0.0f;
    default: {
      const float value = q[first ? i : i - head_dim];
      return (value > 0.0f) == first ? value : 0.0f;
    }
  }
}

}  // namespace varve::page::score_math
