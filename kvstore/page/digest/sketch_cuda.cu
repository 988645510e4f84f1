#include "kvstore/page/digest/sketch_cuda.h"
#include "kvstore/page/digest/sketch_math.h"

namespace varve::page::cuda {
namespace {

using sketch_math::kMaxHeadDim;

constexpr uint32_t kWarp = 32;
constexpr uint32_t kWarps = 8;
constexpr uint32_t kAll = 0xffffffffu;
constexpr uint32_t kInfinityBits = 0x7f800000u;

// All butterflies of one row in shared memory, by one warp.
template <bool kKey>
__device__ void Rotate(float* row, uint32_t head_dim, uint32_t lane) {
  const uint32_t size = sketch_math::HadamardSize(head_dim);
  for (uint32_t stride = 1; stride < size; stride *= 2) {
    __syncwarp();
    for (uint32_t pair = lane; pair < head_dim / 2; pair += kWarp) {
      float* a = row + pair / stride * 2 * stride + pair % stride;
      if (kKey) {
        sketch_math::KeyButterfly(a[0], a[stride]);
      } else {
        sketch_math::QueryButterfly(a[0], a[stride]);
      }
    }
  }
  __syncwarp();
}

// Eight lanes add up a part each, in channel order; the parts meet in the order of SumOfParts.
__device__ double SpreadSum(const float* residual, uint32_t head_dim, uint32_t bits,
                            uint32_t lane) {
  double part = 0.0;
  for (uint32_t c = lane % 8; c < head_dim; c += 8) part += sketch_math::Spread(residual[c], bits);
  double parts[8];
  for (uint32_t j = 0; j < 8; ++j) parts[j] = __shfl_sync(kAll, part, static_cast<int>(j));
  return sketch_math::SumOfParts(parts);
}

// One token by one warp. row: head_dim floats of shared memory.
template <DType kType>
__device__ void WriteToken(const DigestJob& job, uint32_t bits, const std::byte* keys, uint32_t t,
                           float* row, std::byte* out) {
  const uint32_t lane = threadIdx.x % kWarp;
  const uint32_t words = (job.head_dim * bits + 31) / 32;
  for (uint32_t c = lane; c < job.head_dim; c += kWarp) {
    row[c] = LoadAsF32(keys, kType, size_t{t} * job.head_dim + c);
  }
  __syncwarp();
  double firsts = 0.0;
  const uint32_t size = sketch_math::HadamardSize(job.head_dim);
  for (uint32_t c = 0; c < job.head_dim; c += size) firsts += static_cast<double>(row[c]);
  const uint16_t mean = sketch_math::Mean(firsts, job.head_dim);
  Rotate<true>(row, job.head_dim, lane);
  for (uint32_t c = lane; c < job.head_dim; c += kWarp) row[c] -= BF16ToF32(mean);
  __syncwarp();
  const double spread = SpreadSum(row, job.head_dim, bits, lane);
  const uint16_t scale = sketch_math::Scale(spread, job.head_dim, bits);
  if (lane < words) {
    uint32_t word = 0;
    const uint32_t first = lane * (32 / bits);
    for (uint32_t c = first; c < first + 32 / bits && c < job.head_dim; ++c) {
      word |= sketch_math::Code(row[c], BF16ToF32(scale), bits) << sketch_math::Shift(c, bits);
    }
    reinterpret_cast<uint32_t*>(out)[lane * job.tokens + t] = word;
  }
  auto* tail = reinterpret_cast<uint16_t*>(out + size_t{4} * words * job.tokens);
  if (lane == 0) tail[t] = scale;
  if (lane == 1) tail[job.tokens + t] = mean;
  __syncwarp();
}

// One thread block per page, one warp per token.
template <DType kType>
__global__ void BuildKernel(DigestJob job, uint32_t bits) {
  __shared__ float rows[kWarps][kMaxHeadDim];
  const size_t page = blockIdx.x;
  const auto* keys = static_cast<const std::byte*>(job.keys) + page * job.key_stride_bytes;
  auto* out = static_cast<std::byte*>(job.digests) + page * job.digest_stride_bytes;
  bool finite = true;
  for (uint32_t i = threadIdx.x; i < job.tokens * job.head_dim; i += blockDim.x) {
    const uint32_t magnitude = __float_as_uint(LoadAsF32(keys, kType, i)) & 0x7fffffffu;
    finite = finite && magnitude < kInfinityBits;
  }
  const bool rejected = __syncthreads_or(!finite) != 0;
  if (threadIdx.x == 0) job.rejected[page] = rejected ? 1 : 0;
  if (rejected) return;
  const uint32_t warp = threadIdx.x / kWarp;
  for (uint32_t t = warp; t < job.tokens; t += kWarps) {
    WriteToken<kType>(job, bits, keys, t, rows[warp], out);
  }
}

// ---- scores

constexpr uint32_t kHeads = 8;  // query heads per launch
constexpr uint32_t kQuads = kMaxHeadDim / 4;
constexpr uint32_t kPagesPerWarp = 4;  // spreads the cost of rounding the queries

struct Job {
  const std::byte* rows;
  size_t row_stride_bytes;
  uint32_t num_pages;
  uint32_t head_dim;
  uint32_t bits;
  uint32_t words;
  uint32_t tokens;
  const float* queries;
  uint32_t heads;
  float* raw;
};

struct Queries {
  int quads[kHeads][kQuads];
  float sum[kHeads];
  float step[kHeads];
};

__device__ float WarpMax(float v) {
  for (uint32_t offset = kWarp / 2; offset > 0; offset /= 2) {
    v = fmaxf(v, __shfl_xor_sync(kAll, v, offset));
  }
  return v;
}

// One query head by one warp.
__device__ void QuantiseQuery(const Job& job, uint32_t head, float* row, Queries& out) {
  const uint32_t lane = threadIdx.x % kWarp;
  for (uint32_t c = lane; c < job.head_dim; c += kWarp) {
    row[c] = job.queries[size_t{head} * job.head_dim + c];
  }
  Rotate<false>(row, job.head_dim, lane);
  float greatest = 0.0f;
  for (uint32_t c = lane; c < job.head_dim; c += kWarp) greatest = fmaxf(greatest, fabsf(row[c]));
  const float step = sketch_math::QueryStep(WarpMax(greatest), job.bits);
  int sum = 0;
  for (uint32_t quad = lane; quad < kQuads; quad += kWarp) {
    uint32_t packed = 0;
    for (uint32_t i = 0; i < 4 && quad * 4 < job.head_dim; ++i) {
      const int8_t integer = sketch_math::QueryInteger(row[quad * 4 + i], step, job.bits);
      packed |= static_cast<uint32_t>(static_cast<uint8_t>(integer)) << (8 * i);
      sum += integer;
    }
    out.quads[head][quad] = static_cast<int>(packed);
  }
  for (uint32_t offset = kWarp / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(kAll, sum, offset);
  }
  if (lane == 0) {
    out.sum[head] = static_cast<float>(sum);
    out.step[head] = step / sqrtf(static_cast<float>(job.head_dim));
  }
}

// One warp scores one page, a token per lane.
__device__ void ScoreRow(const Job& job, const Queries& queries, uint32_t page) {
  const uint32_t lane = threadIdx.x % kWarp;
  const bool used = lane < job.tokens;
  const uint32_t t = used ? lane : 0;
  const std::byte* row = job.rows + page * job.row_stride_bytes;
  const auto* words = reinterpret_cast<const uint32_t*>(row);
  const uint32_t mask = 0x01010101u * ((1u << job.bits) - 1);
  int sums[kHeads] = {};
  for (uint32_t w = 0; w < job.words; ++w) {
    const uint32_t word = words[w * job.tokens + t];
    for (uint32_t k = 0; k < 8 / job.bits; ++k) {
      const int codes = static_cast<int>(word >> (k * job.bits) & mask);
      const uint32_t quad = w * (8 / job.bits) + k;
      for (uint32_t h = 0; h < kHeads; ++h) {
        if (h < job.heads) sums[h] = __dp4a(codes, queries.quads[h][quad], sums[h]);
      }
    }
  }
  const auto* tail = reinterpret_cast<const uint16_t*>(words + job.words * job.tokens);
  const float scale = BF16ToF32(tail[t]);
  const float mean = BF16ToF32(tail[job.tokens + t]);
  for (uint32_t h = 0; h < kHeads; ++h) {
    if (h >= job.heads) break;
    const float levels = 2.0f * static_cast<float>(sums[h]) -
                         static_cast<float>((1u << job.bits) - 1) * queries.sum[h];
    const float step = queries.step[h];
    const float exact = mean * (step * queries.sum[h]) + (scale * step) * levels;
    const float logit = used ? fminf(fmaxf(exact, -1e30f), 1e30f) : -INFINITY;
    const float greatest = WarpMax(logit);
    float total = expf(logit - greatest);
    for (uint32_t offset = kWarp / 2; offset > 0; offset /= 2) {
      total += __shfl_xor_sync(kAll, total, offset);
    }
    if (lane == 0) {
      job.raw[size_t{h} * job.num_pages + page] =
          sqrtf(static_cast<float>(job.head_dim)) * (greatest + logf(total));
    }
  }
}

__global__ void ScoreKernel(Job job) {
  __shared__ Queries queries;
  __shared__ float rows[kWarps][kMaxHeadDim];
  const uint32_t warp = threadIdx.x / kWarp;
  if (warp < job.heads) QuantiseQuery(job, warp, rows[warp], queries);
  __syncthreads();
  const uint32_t first = (blockIdx.x * kWarps + warp) * kPagesPerWarp;
  for (uint32_t p = first; p < first + kPagesPerWarp && p < job.num_pages; ++p) {
    ScoreRow(job, queries, p);
  }
}
static_assert(kHeads <= kWarps, "a warp per query head");

}  // namespace

cudaError_t BuildSketches(const DigestJob& job, cudaStream_t stream) {
  const uint32_t bits = Info(job.kind).sketch_bits;
  switch (job.dtype) {
    case DType::kF32:
      BuildKernel<DType::kF32><<<job.num_pages, kWarps * kWarp, 0, stream>>>(job, bits);
      break;
    case DType::kF16:
      BuildKernel<DType::kF16><<<job.num_pages, kWarps * kWarp, 0, stream>>>(job, bits);
      break;
    case DType::kBF16:
      BuildKernel<DType::kBF16><<<job.num_pages, kWarps * kWarp, 0, stream>>>(job, bits);
      break;
  }
  return cudaGetLastError();
}

cudaError_t ScoreSketches(const DigestMatrix& sketches, const float* queries, uint32_t group_size,
                          float* raw, cudaStream_t stream) {
  constexpr uint32_t kPagesPerBlock = kWarps * kPagesPerWarp;
  const uint32_t blocks = (sketches.num_pages + kPagesPerBlock - 1) / kPagesPerBlock;
  for (uint32_t g = 0; g < group_size; g += kHeads) {
    const Job job{sketches.rows,
                  sketches.row_stride_bytes,
                  sketches.num_pages,
                  sketches.head_dim,
                  Info(sketches.kind).sketch_bits,
                  SketchWords(sketches.kind, sketches.head_dim),
                  sketches.page_tokens,
                  queries + size_t{g} * sketches.head_dim,
                  group_size - g < kHeads ? group_size - g : kHeads,
                  raw + size_t{g} * sketches.num_pages};
    ScoreKernel<<<blocks, kWarps * kWarp, 0, stream>>>(job);
  }
  return cudaGetLastError();
}

}  // namespace varve::page::cuda
