#include "kvstore/page/digest/score_cuda.h"
#include "kvstore/page/digest/score_math.h"
#include "kvstore/page/digest/sketch_cuda.h"

namespace varve::page::cuda {
namespace {

constexpr uint32_t kWarp = 32;
constexpr uint32_t kWarps = 8;
constexpr uint32_t kHeads = 8;  // query heads per launch; their weights lie in shared memory
constexpr uint32_t kMaxElements = 512;
constexpr uint32_t kPagesPerWarp = 4;  // spreads the cost of building the weights

struct Job {
  const std::byte* rows;
  size_t row_stride_bytes;
  uint32_t num_pages;
  uint32_t head_dim;
  DigestKind kind;
  uint32_t elements;
  const float* queries;
  uint32_t heads;
  float* raw;
};

// Sixteen bytes of a row, as floats.
template <DType kType>
struct Chunk {
  static constexpr uint32_t kElements = 16 / DTypeBytes(kType);
  float value[kElements];

  __device__ explicit Chunk(const std::byte* p) {
    const uint4 words = *reinterpret_cast<const uint4*>(p);
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
    if constexpr (kType == DType::kF32) {
      for (uint32_t i = 0; i < 4; ++i) value[i] = __uint_as_float(word[i]);
    } else {
      for (uint32_t i = 0; i < 8; ++i) {
        const auto half = static_cast<uint16_t>(word[i / 2] >> (16 * (i % 2)));
        value[i] = kType == DType::kF16 ? F16ToF32(half) : BF16ToF32(half);
      }
    }
  }
};

__device__ float WarpSum(float v) {
  for (uint32_t offset = kWarp / 2; offset > 0; offset /= 2) {
    v += __shfl_xor_sync(0xffffffffu, v, offset);
  }
  return v;
}

// One warp scores one page for all heads: a row is read once.
template <DType kType>
__device__ void ScoreRow(const Job& job, const float* weights, uint32_t elements, uint32_t page) {
  constexpr uint32_t kStep = Chunk<kType>::kElements;
  const uint32_t lane = threadIdx.x % kWarp;
  const std::byte* row = job.rows + page * job.row_stride_bytes;
  float acc[kHeads] = {};
  for (uint32_t i = lane * kStep; i < elements; i += kWarp * kStep) {
    const Chunk<kType> chunk(row + i * DTypeBytes(kType));
    for (uint32_t h = 0; h < job.heads; ++h) {
      for (uint32_t e = 0; e < kStep; ++e) {
        acc[h] = fmaf(chunk.value[e], weights[h * kMaxElements + i + e], acc[h]);
      }
    }
  }
  for (uint32_t h = 0; h < job.heads; ++h) {
    const float score = WarpSum(acc[h]);
    if (lane == 0) job.raw[size_t{h} * job.num_pages + page] = score;
  }
}

template <DType kType>
__global__ void ScoreKernel(Job job) {
  __shared__ float weights[kHeads * kMaxElements];
  const uint32_t elements = job.elements;
  for (uint32_t i = threadIdx.x; i < job.heads * elements; i += blockDim.x) {
    const uint32_t head = i / elements;
    const float* q = job.queries + size_t{head} * job.head_dim;
    weights[head * kMaxElements + i % elements] =
        score_math::Weight(job.kind, q, job.head_dim, i % elements);
  }
  __syncthreads();
  const uint32_t first = (blockIdx.x * kWarps + threadIdx.x / kWarp) * kPagesPerWarp;
  for (uint32_t p = first; p < first + kPagesPerWarp && p < job.num_pages; ++p) {
    ScoreRow<kType>(job, weights, elements, p);
  }
}

}  // namespace

cudaError_t ScorePages(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                       float* raw, cudaStream_t stream) {
  if (digests.num_pages == 0) return cudaSuccess;
  if (IsSketch(digests.kind)) return ScoreSketches(digests, queries, group_size, raw, stream);
  constexpr uint32_t kPagesPerBlock = kWarps * kPagesPerWarp;
  const uint32_t blocks = (digests.num_pages + kPagesPerBlock - 1) / kPagesPerBlock;
  for (uint32_t g = 0; g < group_size; g += kHeads) {
    const Job job{digests.rows,
                  digests.row_stride_bytes,
                  digests.num_pages,
                  digests.head_dim,
                  digests.kind,
                  DigestElements(digests.kind, digests.head_dim),
                  queries + size_t{g} * digests.head_dim,
                  group_size - g < kHeads ? group_size - g : kHeads,
                  raw + size_t{g} * digests.num_pages};
    switch (digests.dtype) {
      case DType::kF32:
        ScoreKernel<DType::kF32><<<blocks, kWarps * kWarp, 0, stream>>>(job);
        break;
      case DType::kF16:
        ScoreKernel<DType::kF16><<<blocks, kWarps * kWarp, 0, stream>>>(job);
        break;
      case DType::kBF16:
        ScoreKernel<DType::kBF16><<<blocks, kWarps * kWarp, 0, stream>>>(job);
        break;
    }
  }
  return cudaGetLastError();
}

}  // namespace varve::page::cuda
