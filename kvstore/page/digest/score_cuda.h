// CUDA twin of ScorePages (score.h), over digests, queries and scores in device memory; same
// tolerance.
//
// Asynchronous on `stream`; the caller checks the returned launch error and owns all memory.
// Thread-safe. Needs the CUDA runtime only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kvstore/page/digest/score.h"

namespace varve::page::cuda {

// raw[g * num_pages + i] = score of page i for query head g. All pointers, digests.rows included,
// are device memory; rows and their stride are multiples of 16 bytes.
cudaError_t ScorePages(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                       float* raw, cudaStream_t stream);

}  // namespace varve::page::cuda
