#include "kvstore/page/digest/score.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

struct MergeRow {
  ScoreMerge merge;
  std::string_view name;
};
constexpr std::array<MergeRow, 4> kMerges = {{
    {ScoreMerge::kSoftmaxMean, "softmax_mean"},
    {ScoreMerge::kSoftmaxMax, "softmax_max"},
    {ScoreMerge::kMax, "max"},
    {ScoreMerge::kMean, "mean"},
}};

// All tables that this CPU can run, as scoring functions.
struct Impls {
  std::array<ScoreImpl, kMaxKernelTables> impls{};
  size_t count = 0;
};

Impls ListImpls() {
  Impls list;
  for (const KernelTable* table : AllKernels()) {
    // Tables may differ in other kernels only.
    if (list.count > 0 && list.impls[list.count - 1].fn == table->score_pages) --list.count;
    list.impls[list.count++] = {table->name, table->score_pages};
  }
  return list;
}

}  // namespace

std::optional<ScoreMerge> ScoreMergeByName(std::string_view name) {
  for (const MergeRow& row : kMerges) {
    if (row.name == name) return row.merge;
  }
  return std::nullopt;
}

std::string_view ScoreMergeName(ScoreMerge merge) {
  for (const MergeRow& row : kMerges) {
    if (row.merge == merge) return row.name;
  }
  return "?";
}

std::string_view ScoreMergeNames() { return "softmax_mean, softmax_max, max, mean"; }

void ScorePages(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                float* raw) {
  Kernels().score_pages(digests, queries, group_size, raw);
}

void MergeScores(ScoreMerge merge, float* raw, uint32_t group_size, uint32_t num_pages,
                 uint32_t head_dim, float* scores) {
  MergeSomeScores(merge, raw, group_size, group_size, /*first=*/true, num_pages, head_dim, scores);
}

void MergeSomeScores(ScoreMerge merge, float* raw, uint32_t heads, uint32_t group_size, bool first,
                     uint32_t num_pages, uint32_t head_dim, float* scores) {
  if (num_pages == 0) return;
  const KernelTable& kernels = Kernels();
  const bool softmax = merge == ScoreMerge::kSoftmaxMean || merge == ScoreMerge::kSoftmaxMax;
  const bool mean = merge == ScoreMerge::kSoftmaxMean || merge == ScoreMerge::kMean;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
  const float weight = mean ? 1.0f / static_cast<float>(group_size) : 1.0f;
  if (first) {
    std::fill_n(scores, num_pages, mean ? 0.0f : -std::numeric_limits<float>::infinity());
  }
  for (uint32_t g = 0; g < heads; ++g) {
    float* row = raw + size_t{g} * num_pages;
    float factor = weight;
    if (softmax) {
      factor /= kernels.exp_and_sum(row, num_pages, kernels.row_max(row, num_pages), scale);
    }
    if (mean) {
      kernels.add_scaled(scores, row, num_pages, factor);
    } else {
      kernels.max_scaled(scores, row, num_pages, factor);
    }
  }
}

void ScorePagesReference(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                         double* raw) {
  if (IsSketch(digests.kind)) return ScoreSketchReference(digests, queries, group_size, raw);
  const bool box = Info(digests.kind).vectors == 2;
  const uint32_t d = digests.head_dim;
  for (uint32_t g = 0; g < group_size; ++g) {
    for (uint32_t page = 0; page < digests.num_pages; ++page) {
      const std::byte* row = digests.rows + page * digests.row_stride_bytes;
      double score = 0, norm = 0;
      for (uint32_t i = 0; i < d; ++i) {
        const double q = queries[size_t{g} * d + i];
        const double hi = LoadAsF32(row, digests.dtype, i);
        const double lo = box ? LoadAsF32(row, digests.dtype, size_t{d} + i) : hi;
        score += std::max(q * hi, q * lo);
        norm += q * q;
      }
      if (digests.kind == DigestKind::kSphere) {
        score += std::sqrt(norm) * kRadiusScale * LoadAsF32(row, digests.dtype, d);
      }
      raw[size_t{g} * digests.num_pages + page] = score;
    }
  }
}

std::span<const ScoreImpl> ScoreImpls() {
  static const Impls list = ListImpls();
  return {list.impls.data(), list.count};
}

}  // namespace varve::page
