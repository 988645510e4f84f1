#include "kvstore/page/lowrank/landmark.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>

namespace varve::page {
namespace {

// Sums in eight parts: their order is part of the value.
struct Parts {
  std::array<double, 8> sums{};
  double Total() const {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
           ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }
};

double Cosine(double dot, double a_squared, double b_squared) {
  if (a_squared == 0 && b_squared == 0) return 1;
  if (a_squared == 0 || b_squared == 0) return 0;
  // Roots first: the product of the squares may overflow where theirs does not.
  return std::clamp(dot / (std::sqrt(a_squared) * std::sqrt(b_squared)), -1.0, 1.0);
}

template <DType T>
double MinCosineOf(const void* keys, uint32_t tokens, uint32_t head_dim, const void* landmark) {
  Parts mean_squared;
  for (uint32_t i = 0; i < head_dim; ++i) {
    const double m = LoadAsF32(landmark, T, i);
    mean_squared.sums[i % 8] += m * m;
  }
  const double mean_norm = mean_squared.Total();
  double least = 1;
  for (uint32_t t = 0; t < tokens; ++t) {
    Parts dot, squared;
    for (uint32_t i = 0; i < head_dim; i += 8) {
      for (uint32_t j = 0; j < 8; ++j) {
        const double key = LoadAsF32(keys, T, size_t{t} * head_dim + i + j);
        dot.sums[j] += key * LoadAsF32(landmark, T, i + j);
        squared.sums[j] += key * key;
      }
    }
    least = std::min(least, Cosine(dot.Total(), squared.Total(), mean_norm));
  }
  return least;
}

}  // namespace

bool IsChunkTokens(uint32_t tokens) {
  return tokens == 4 || tokens == 8 || tokens == 16 || tokens == 32;
}

float MinCosine(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                const void* landmark) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<float>(MinCosineOf<DType::kF32>(keys, tokens, head_dim, landmark));
    case DType::kF16:
      return static_cast<float>(MinCosineOf<DType::kF16>(keys, tokens, head_dim, landmark));
    case DType::kBF16:
      return static_cast<float>(MinCosineOf<DType::kBF16>(keys, tokens, head_dim, landmark));
  }
  return 0;
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
