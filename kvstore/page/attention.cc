#include "kvstore/page/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kvstore/page/simd/kernels.h"

namespace varve::page {

void AttendPages(const AttentionShape& shape, const float* q, std::span<const PageView> pages,
                 float* out, float* lse) {
  Kernels().attend_pages(shape, q, pages, out, lse);
}

void PageLogMass(const AttentionShape& shape, const float* q, std::span<const PageView> pages,
                 float* log_mass) {
  Kernels().page_log_mass(shape, q, pages, log_mass);
}

void MergeAttention(uint32_t group_size, uint32_t head_dim, float* out_a, float* lse_a,
                    const float* out_b, const float* lse_b) {
  for (uint32_t g = 0; g < group_size; ++g) {
    const float max = std::max(lse_a[g], lse_b[g]);
    if (max == -std::numeric_limits<float>::infinity()) continue;  // both empty
    const float a = std::exp(lse_a[g] - max);
    const float b = std::exp(lse_b[g] - max);
    const float weight_a = a / (a + b);
    const float weight_b = b / (a + b);
    float* out = out_a + size_t{g} * head_dim;
    const float* other = out_b + size_t{g} * head_dim;
    for (uint32_t i = 0; i < head_dim; ++i) out[i] = weight_a * out[i] + weight_b * other[i];
    lse_a[g] = max + std::log(a + b);
  }
}

namespace {

double LogitReference(const AttentionShape& shape, const float* q, const void* keys, uint32_t t) {
  double dot = 0;
  for (uint32_t i = 0; i < shape.head_dim; ++i) {
    dot += double{q[i]} * LoadAsF32(keys, shape.dtype, size_t{t} * shape.head_dim + i);
  }
  return dot * double{shape.scale};
}

// One query head, in two passes: the greatest logit, then the sums.
void AttendHeadReference(const AttentionShape& shape, const float* q,
                         std::span<const PageView> pages, double* out, double* lse) {
  double max = -std::numeric_limits<double>::infinity();
  for (const PageView& page : pages) {
    for (uint32_t t = 0; t < page.tokens; ++t) {
      max = std::max(max, LogitReference(shape, q, page.k, t));
    }
  }
  std::fill_n(out, shape.head_dim, 0.0);
  double total = 0;
  for (const PageView& page : pages) {
    for (uint32_t t = 0; t < page.tokens; ++t) {
      const double p = std::exp(LogitReference(shape, q, page.k, t) - max);
      total += p;
      for (uint32_t i = 0; i < shape.head_dim; ++i) {
        out[i] += p * LoadAsF32(page.v, shape.dtype, size_t{t} * shape.head_dim + i);
      }
    }
  }
  *lse = max + std::log(total);
  if (total == 0) return;
  for (uint32_t i = 0; i < shape.head_dim; ++i) out[i] /= total;
}

}  // namespace

void AttendPagesReference(const AttentionShape& shape, const float* q,
                          std::span<const PageView> pages, double* out, double* lse) {
  for (uint32_t g = 0; g < shape.group_size; ++g) {
    const size_t offset = size_t{g} * shape.head_dim;
    AttendHeadReference(shape, q + offset, pages, out + offset, lse + g);
  }
}

}  // namespace varve::page
