// The scalar truth of score weights, shared by the CPU and the CUDA twin.
#pragma once

#include <cstdint>

#include "kvstore/page/dtype.h"

namespace varve::page::score_math {

// Weight of element i of a digest row of `vectors` vectors: the score is the dot product of the row with the weights.
// [hi | lo] takes [max(q, 0) | min(q, 0)], so that hi counts where q is positive and lo where it is negative; [mean]
// takes q.
VARVE_HOST_DEVICE inline float Weight(uint32_t vectors, const float* q, uint32_t head_dim,
                                      uint32_t i) {
  if (vectors == 1) return q[i];
  if (i < head_dim) return q[i] > 0.0f ? q[i] : 0.0f;
  const float value = q[i - head_dim];
  return value < 0.0f ? value : 0.0f;
}

}  // namespace varve::page::score_math
