// CUDA twin of digest building: the same bits as BuildDigest (digest.h), from keys in device
// memory.
//
// Plain device pointers; everything is asynchronous on `stream`; the caller checks the returned
// launch error and owns all memory. Thread-safe. Needs the CUDA runtime only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kvstore/page/digest/digest.h"

namespace varve::page::cuda {

struct DigestJob {
  DigestKind kind;
  DType dtype;
  uint32_t head_dim;  // 32 .. 256, a multiple of 8
  uint32_t tokens;    // per page, at least 1
  uint32_t num_pages;
  const void* keys;  // keys of page i at keys + i * key_stride_bytes, [token][head_dim]
  size_t key_stride_bytes;
  void* digests;               // digest of page i at digests + i * digest_stride_bytes
  size_t digest_stride_bytes;  // of sketches a multiple of 4, as digests
  uint8_t* rejected;           // [num_pages]: 1 where a key is NaN or infinite (that digest is left
                               // untouched), else 0
};

cudaError_t BuildDigests(const DigestJob& job, cudaStream_t stream);

}  // namespace varve::page::cuda
