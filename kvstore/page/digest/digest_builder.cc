#include <algorithm>
#include <array>
#include <limits>

#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/digest_math.h"
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

void WriteDigest(DigestKind kind, const Statistics& s, const void* keys, uint32_t tokens,
                 uint32_t head_dim, DType dtype, void* out) {
  namespace math = digest_math;
  std::array<float, kMaxHeadDim> deviation;
  if (kind == DigestKind::kBoxMean) {
    std::fill_n(deviation.begin(), head_dim, 0.0f);
    Kernels().accumulate_deviation(keys, tokens, head_dim, dtype, s.hi, s.lo, deviation.data());
  }
  const auto count = static_cast<float>(tokens);
  for (uint32_t i = 0; i < head_dim; ++i) {
    const float hi = s.hi[i];
    const float lo = s.lo[i];
    switch (kind) {
      case DigestKind::kMinMax:
        math::StoreCanonical(out, dtype, i, hi);
        math::StoreCanonical(out, dtype, head_dim + i, lo);
        break;
      case DigestKind::kBoxMean: {
        const float center = math::Center(hi, lo);
        const float half = deviation[i] / count;
        math::StoreCanonical(out, dtype, i, math::ShrunkHi(hi, center, half));
        math::StoreCanonical(out, dtype, head_dim + i, math::ShrunkLo(lo, center, half));
        break;
      }
      case DigestKind::kMean:
        math::StoreCanonical(out, dtype, i, math::Mean(s.sum[i], count, hi, lo));
        break;
    }
  }
}

}  // namespace

bool BuildDigest(DigestKind kind, const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                 void* out) {
  if (tokens == 0 || !AllFinite(keys, size_t{tokens} * head_dim, dtype)) return false;
  std::array<float, kMaxHeadDim> hi, lo, sum;
  Clear(hi.data(), lo.data(), sum.data(), head_dim);
  Kernels().accumulate_statistics(keys, tokens, head_dim, dtype, hi.data(), lo.data(), sum.data());
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
  Kernels().accumulate_statistics(keys, tokens, head_dim_, dtype_, hi_.data(), lo_.data(),
                                  sum_.data());
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
