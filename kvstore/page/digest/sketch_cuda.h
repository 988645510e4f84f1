// CUDA twins of the sketches: building with the same bits as BuildDigest (digest.h), and scoring
// with the tolerance of ScorePages (score.h). Called by BuildDigests and ScorePages of
// digest_cuda.h and score_cuda.h, whose contracts hold here too. Internal to page.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kvstore/page/digest/digest_cuda.h"
#include "kvstore/page/digest/score_cuda.h"

namespace varve::page::cuda {

cudaError_t BuildSketches(const DigestJob& job, cudaStream_t stream);
cudaError_t ScoreSketches(const DigestMatrix& sketches, const float* queries, uint32_t group_size,
                          float* raw, cudaStream_t stream);

}  // namespace varve::page::cuda
