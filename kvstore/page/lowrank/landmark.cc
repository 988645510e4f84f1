#include "kvstore/page/lowrank/landmark.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>

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

bool IsChunkTokens(uint32_t tokens) {
  return tokens == 4 || tokens == 8 || tokens == 16 || tokens == 32;
}

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

void RemoveOutliers(std::span<const uint32_t> outliers, uint32_t num_chunks, void* rows,
                    size_t row_stride_bytes, size_t row_bytes, std::vector<uint32_t>& ids) {
  ids.clear();
  auto* bytes = static_cast<std::byte*>(rows);
  auto next = outliers.begin();
  for (uint32_t chunk = 0; chunk < num_chunks; ++chunk) {
    if (next != outliers.end() && *next == chunk) {
      ++next;
      continue;
    }
    if (ids.size() != chunk) {
      std::memcpy(bytes + ids.size() * row_stride_bytes, bytes + chunk * row_stride_bytes,
                  row_bytes);
    }
    ids.push_back(chunk);
  }
}

void SelectChunks(const DigestMatrix& landmarks, std::span<const uint32_t> ids,
                  const float* queries, uint32_t group_size, uint32_t count, ChunkScratch& scratch,
                  std::vector<uint32_t>& selected) {
  assert(landmarks.kind == DigestKind::kMean && ids.size() == landmarks.num_pages);
  scratch.raw.resize(size_t{group_size} * landmarks.num_pages);
  scratch.scores.resize(landmarks.num_pages);
  ScorePages(landmarks, queries, group_size, scratch.raw.data());
  MergeScores(ScoreMerge::kSoftmaxMax, scratch.raw.data(), group_size, landmarks.num_pages,
              landmarks.head_dim, scratch.scores.data());
  selected.resize(std::min(count, landmarks.num_pages));
  SelectPages(scratch.scores, {}, count, scratch.select, selected);
  for (uint32_t& row : selected) row = ids[row];
}

}  // namespace varve::page
