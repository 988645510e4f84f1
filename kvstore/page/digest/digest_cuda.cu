#include "kvstore/page/digest/digest_cuda.h"
#include "kvstore/page/digest/digest_math.h"
#include "kvstore/page/digest/sketch_cuda.h"

namespace varve::page::cuda {
namespace {

constexpr uint32_t kInfinityBits = 0x7f800000u;

__device__ bool IsFinite(float v) { return (__float_as_uint(v) & 0x7fffffffu) < kInfinityBits; }

struct Channel {
  float hi, lo, sum;
  bool finite;
};

// One channel of one page, over its tokens in order: the order is part of the value (digest.h).
template <DType kType>
__device__ Channel Accumulate(const void* keys, uint32_t tokens, uint32_t head_dim, uint32_t c) {
  Channel channel{-INFINITY, INFINITY, 0.0f, true};
  for (uint32_t t = 0; t < tokens; ++t) {
    const float key = LoadAsF32(keys, kType, size_t{t} * head_dim + c);
    channel.finite = channel.finite && IsFinite(key);
    channel.hi = digest_math::Max(key, channel.hi);
    channel.lo = digest_math::Min(key, channel.lo);
    channel.sum += key;
  }
  return channel;
}

template <DType kType>
__device__ float MeanDeviation(const void* keys, uint32_t tokens, uint32_t head_dim, uint32_t c,
                               float center) {
  float deviation = 0.0f;
  for (uint32_t t = 0; t < tokens; ++t) {
    const float key = LoadAsF32(keys, kType, size_t{t} * head_dim + c);
    deviation += digest_math::Deviation(key, center);
  }
  return deviation / static_cast<float>(tokens);
}

template <DType kType>
__device__ void WriteChannel(const DigestJob& job, const void* keys, const Channel& channel,
                             uint32_t c, void* out) {
  switch (job.kind) {
    case DigestKind::kMinMax:
      digest_math::StoreCanonical(out, kType, c, channel.hi);
      digest_math::StoreCanonical(out, kType, job.head_dim + c, channel.lo);
      break;
    case DigestKind::kBoxMean: {
      const float center = digest_math::Center(channel.hi, channel.lo);
      const float half = MeanDeviation<kType>(keys, job.tokens, job.head_dim, c, center);
      digest_math::StoreCanonical(out, kType, c, digest_math::ShrunkHi(channel.hi, center, half));
      digest_math::StoreCanonical(out, kType, job.head_dim + c,
                                  digest_math::ShrunkLo(channel.lo, center, half));
      break;
    }
    case DigestKind::kMean: {
      const auto tokens = static_cast<float>(job.tokens);
      digest_math::StoreCanonical(out, kType, c,
                                  digest_math::Mean(channel.sum, tokens, channel.hi, channel.lo));
      break;
    }
    case DigestKind::kSphere:
      digest_math::StoreCanonical(out, kType, c, digest_math::Center(channel.hi, channel.lo));
      break;
    default:
      break;
  }
}

constexpr uint32_t kWarp = 32;

// After every channel's centre is stored: one warp, a token (or several) per thread. The greatest
// does not depend on the order.
template <DType kType>
__device__ void WriteRadius(const DigestJob& job, const void* keys, void* out) {
  __shared__ float center[256];
  center[threadIdx.x] = LoadAsF32(out, kType, threadIdx.x);
  __syncthreads();
  if (threadIdx.x >= kWarp) return;
  double greatest = 0.0;
  for (uint32_t t = threadIdx.x; t < job.tokens; t += kWarp) {
    const double squared =
        digest_math::SquaredDistance<kType>(keys, size_t{t} * job.head_dim, center, job.head_dim);
    greatest = greatest > squared ? greatest : squared;
  }
  for (uint32_t offset = kWarp / 2; offset > 0; offset /= 2) {
    const double other = __shfl_xor_sync(0xffffffffu, greatest, offset);
    greatest = greatest > other ? greatest : other;
  }
  if (threadIdx.x == 0) {
    digest_math::StoreRadius(out, kType, job.head_dim, greatest, kRadiusScale);
  } else if (threadIdx.x < kRadiusElements) {
    digest_math::StoreCanonical(out, kType, job.head_dim + threadIdx.x, 0.0f);
  }
}

// One thread block per page, one thread per channel: neighbouring threads read neighbouring
// elements.
template <DType kType>
__global__ void BuildKernel(DigestJob job) {
  const size_t page = blockIdx.x;
  const uint32_t c = threadIdx.x;
  const auto* keys = static_cast<const std::byte*>(job.keys) + page * job.key_stride_bytes;
  auto* out = static_cast<std::byte*>(job.digests) + page * job.digest_stride_bytes;
  const Channel channel = Accumulate<kType>(keys, job.tokens, job.head_dim, c);
  const bool rejected = __syncthreads_or(!channel.finite) != 0;
  if (c == 0) job.rejected[page] = rejected ? 1 : 0;
  if (rejected) return;
  WriteChannel<kType>(job, keys, channel, c, out);
  if (job.kind == DigestKind::kSphere) WriteRadius<kType>(job, keys, out);
}

}  // namespace

cudaError_t BuildDigests(const DigestJob& job, cudaStream_t stream) {
  if (job.num_pages == 0) return cudaSuccess;
  if (IsSketch(job.kind)) return BuildSketches(job, stream);
  if (HasSketch(job.kind)) {
    DigestJob sketches = job;
    sketches.digests =
        static_cast<std::byte*>(job.digests) + SketchOffset(job.kind, job.head_dim, job.dtype);
    // It rejects the same keys, and leaves the same digests untouched.
    if (const cudaError_t error = BuildSketches(sketches, stream); error != cudaSuccess)
      return error;
  }
  switch (job.dtype) {
    case DType::kF32:
      BuildKernel<DType::kF32><<<job.num_pages, job.head_dim, 0, stream>>>(job);
      break;
    case DType::kF16:
      BuildKernel<DType::kF16><<<job.num_pages, job.head_dim, 0, stream>>>(job);
      break;
    case DType::kBF16:
      BuildKernel<DType::kBF16><<<job.num_pages, job.head_dim, 0, stream>>>(job);
      break;
  }
  return cudaGetLastError();
}

}  // namespace varve::page::cuda
