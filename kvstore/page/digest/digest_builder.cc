#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/digest_math.h"
#include "kvstore/page/digest/sketch.h"
#include "kvstore/page/rows.h"
#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

constexpr uint32_t kMaxHeadDim = 256;

// Per-channel statistics of the keys so far, head_dim floats each.
struct Statistics {
  const float* hi;
  const float* lo;
  const float* sum;
};

void Clear(float* hi, float* lo, float* sum, uint32_t head_dim) {
  std::fill_n(hi, head_dim, -std::numeric_limits<float>::infinity());
  std::fill_n(lo, head_dim, std::numeric_limits<float>::infinity());
  std::fill_n(sum, head_dim, 0.0f);
}

// One loop per kind and dtype, so that each vectorises.
template <DType kType>
void StoreAll(const float* values, uint32_t count, void* out, size_t first) {
  for (uint32_t i = 0; i < count; ++i) {
    digest_math::StoreCanonical(out, kType, first + i, values[i]);
  }
}

void StoreVector(const float* values, uint32_t count, DType dtype, void* out, size_t first) {
  switch (dtype) {
    case DType::kF32:
      return StoreAll<DType::kF32>(values, count, out, first);
    case DType::kF16:
      return StoreAll<DType::kF16>(values, count, out, first);
    case DType::kBF16:
      return StoreAll<DType::kBF16>(values, count, out, first);
  }
}

void WriteBoxMean(const Statistics& s, const void* keys, uint32_t tokens, uint32_t head_dim,
                  DType dtype, void* out) {
  std::array<float, kMaxHeadDim> hi, lo, deviation;
  std::fill_n(deviation.begin(), head_dim, 0.0f);
  Kernels().accumulate_deviation(keys, tokens, head_dim, dtype, s.hi, s.lo, deviation.data());
  const auto count = static_cast<float>(tokens);
  for (uint32_t i = 0; i < head_dim; ++i) {
    const float center = digest_math::Center(s.hi[i], s.lo[i]);
    const float half = deviation[i] / count;
    hi[i] = digest_math::ShrunkHi(s.hi[i], center, half);
    lo[i] = digest_math::ShrunkLo(s.lo[i], center, half);
  }
  StoreVector(hi.data(), head_dim, dtype, out, 0);
  StoreVector(lo.data(), head_dim, dtype, out, head_dim);
}

void WriteMean(const Statistics& s, uint32_t tokens, uint32_t head_dim, DType dtype, void* out) {
  std::array<float, kMaxHeadDim> mean;
  const auto count = static_cast<float>(tokens);
  for (uint32_t i = 0; i < head_dim; ++i) {
    mean[i] = digest_math::Mean(s.sum[i], count, s.hi[i], s.lo[i]);
  }
  StoreVector(mean.data(), head_dim, dtype, out, 0);
}

template <DType kType>
double GreatestSquaredDistance(const void* keys, uint32_t tokens, uint32_t head_dim,
                               const float* center) {
  double greatest = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    greatest = std::max(greatest, digest_math::SquaredDistance<kType>(keys, size_t{t} * head_dim,
                                                                      center, head_dim));
  }
  return greatest;
}

double GreatestSquaredDistance(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                               const float* center) {
  switch (dtype) {
    case DType::kF32:
      return GreatestSquaredDistance<DType::kF32>(keys, tokens, head_dim, center);
    case DType::kF16:
      return GreatestSquaredDistance<DType::kF16>(keys, tokens, head_dim, center);
    case DType::kBF16:
      return GreatestSquaredDistance<DType::kBF16>(keys, tokens, head_dim, center);
  }
  return 0;
}

void WriteSphere(const Statistics& s, const void* keys, uint32_t tokens, uint32_t head_dim,
                 DType dtype, void* out) {
  std::array<float, kMaxHeadDim> center{};
  for (uint32_t i = 0; i < head_dim; ++i) center[i] = digest_math::Center(s.hi[i], s.lo[i]);
  StoreVector(center.data(), head_dim, dtype, out, 0);
  for (uint32_t i = 0; i < head_dim; ++i) center[i] = LoadAsF32(out, dtype, i);
  const double squared = GreatestSquaredDistance(keys, tokens, head_dim, dtype, center.data());
  digest_math::StoreRadius(out, dtype, head_dim, squared, kRadiusScale);
  std::memset(static_cast<std::byte*>(out) + size_t{head_dim + 1} * DTypeBytes(dtype), 0,
              (kRadiusElements - 1) * DTypeBytes(dtype));
}

void WriteDigest(DigestKind kind, const Statistics& s, const void* keys, uint32_t tokens,
                 uint32_t head_dim, DType dtype, void* out) {
  switch (kind) {
    case DigestKind::kMinMaxSign1:
    case DigestKind::kMinMaxSign2:
    case DigestKind::kMinMaxSign4:
      WriteSketch(kind, keys, tokens, head_dim, dtype,
                  static_cast<std::byte*>(out) + SketchOffset(kind, head_dim, dtype));
      [[fallthrough]];
    case DigestKind::kMinMax:
      StoreVector(s.hi, head_dim, dtype, out, 0);
      StoreVector(s.lo, head_dim, dtype, out, head_dim);
      break;
    case DigestKind::kBoxMean:
      return WriteBoxMean(s, keys, tokens, head_dim, dtype, out);
    case DigestKind::kMean:
      return WriteMean(s, tokens, head_dim, dtype, out);
    case DigestKind::kSphere:
      return WriteSphere(s, keys, tokens, head_dim, dtype, out);
    case DigestKind::kSign1:
    case DigestKind::kSign2:
    case DigestKind::kSign4:
      return WriteSketch(kind, keys, tokens, head_dim, dtype, out);
  }
}

}  // namespace

bool BuildDigest(DigestKind kind, const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                 void* out) {
  if (tokens == 0) return false;
  if (IsSketch(kind)) {
    if (!AllFinite(keys, size_t{tokens} * head_dim, dtype)) return false;
    WriteSketch(kind, keys, tokens, head_dim, dtype, out);
    return true;
  }
  std::array<float, kMaxHeadDim> hi, lo, sum;
  Clear(hi.data(), lo.data(), sum.data(), head_dim);
  Kernels().accumulate_statistics(keys, tokens, head_dim, dtype, hi.data(), lo.data(), sum.data());
  // NaN and infinity end up in their channel's sum. Finite fp32 keys may overflow it too: then the
  // keys decide.
  if (!AllFinite(sum.data(), head_dim, DType::kF32) &&
      !AllFinite(keys, size_t{tokens} * head_dim, dtype)) {
    return false;
  }
  WriteDigest(kind, {hi.data(), lo.data(), sum.data()}, keys, tokens, head_dim, dtype, out);
  return true;
}

DigestBuilder::DigestBuilder(DigestKind kind, uint32_t head_dim, DType dtype)
    : kind_(kind),
      head_dim_(head_dim),
      dtype_(dtype),
      hi_(head_dim),
      lo_(head_dim),
      sum_(head_dim) {
  Reset();
}

bool DigestBuilder::Append(const void* keys, uint32_t tokens) {
  if (!AllFinite(keys, size_t{tokens} * head_dim_, dtype_)) return false;
  if (!IsSketch(kind_)) {
    Kernels().accumulate_statistics(keys, tokens, head_dim_, dtype_, hi_.data(), lo_.data(),
                                    sum_.data());
  }
  tokens_ += tokens;
  return true;
}

bool DigestBuilder::Finish(const void* all_keys, void* out) const {
  if (tokens_ == 0) return false;
  WriteDigest(kind_, {hi_.data(), lo_.data(), sum_.data()}, all_keys, tokens_, head_dim_, dtype_,
              out);
  return true;
}

void DigestBuilder::Reset() {
  tokens_ = 0;
  Clear(hi_.data(), lo_.data(), sum_.data(), head_dim_);
}

}  // namespace varve::page
