#include "kvstore/page/lowrank/landmark.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstddef>

#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

constexpr uint32_t kMaxHeadDim = 256;

double Cosine(double dot, double a_squared, double b_squared) {
  if (a_squared == 0 && b_squared == 0) return 1;
  if (a_squared == 0 || b_squared == 0) return 0;
  // Roots first: the product of the squares may overflow where theirs does not.
  return std::clamp(dot / (std::sqrt(a_squared) * std::sqrt(b_squared)), -1.0, 1.0);
}

}  // namespace

float MinCosine(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                const void* landmark) {
  assert(head_dim <= kMaxHeadDim);
  const KernelTable& kernels = Kernels();
  std::array<float, kMaxHeadDim> mean, key;
  kernels.to_floats(landmark, dtype, head_dim, mean.data());
  const double mean_squared = kernels.dot_f64(mean.data(), mean.data(), head_dim);
  double least = 1;
  for (uint32_t t = 0; t < tokens; ++t) {
    kernels.to_floats(static_cast<const std::byte*>(keys) + t * head_dim * DTypeBytes(dtype), dtype,
                      head_dim, key.data());
    const double dot = kernels.dot_f64(key.data(), mean.data(), head_dim);
    const double squared = kernels.dot_f64(key.data(), key.data(), head_dim);
    least = std::min(least, Cosine(dot, squared, mean_squared));
  }
  return static_cast<float>(least);
}

bool BuildLandmark(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                   void* landmark, float* min_cosine) {
  if (!BuildDigest(DigestKind::kMean, keys, tokens, head_dim, dtype, landmark)) return false;
  *min_cosine = MinCosine(keys, tokens, head_dim, dtype, landmark);
  return true;
}

void ChooseOutliers(std::span<const float> min_cosines, uint32_t count, SelectScratch& scratch,
                    std::vector<uint32_t>& outliers) {
  std::vector<float> scores(min_cosines.size());
  std::transform(min_cosines.begin(), min_cosines.end(), scores.begin(),
                 [](float cosine) { return -cosine; });
  outliers.resize(std::min<size_t>(count, scores.size()));
  SelectPages(scores, {}, count, scratch, outliers);
}

}  // namespace varve::page
