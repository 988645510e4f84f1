// Decode attention over a list of pages, with log-sum-exp so that partial results can be merged.
//
// o = sum_t softmax(scale * q.k_t) v_t over the tokens of the listed pages; lse = log sum_t
// exp(scale * q.k_t). fp32 arithmetic; tolerance against a float64 reference: 1e-5 relative for
// fp32 pages. Any page order and any split merged by lse gives the same result within that
// tolerance. Thread-safe, no exceptions, no allocation.
#pragma once

#include <cstdint>
#include <span>

#include "kvstore/page/geometry.h"

namespace varve::page {

// One page as attention sees it: K and V parts [token][head_dim] of the geometry's dtype, first
// `tokens` rows valid.
struct PageView {
  const void* k = nullptr;
  const void* v = nullptr;
  uint32_t tokens = 0;
};

struct AttentionShape {
  uint32_t group_size = 1;  // query heads that share the KV head
  uint32_t head_dim = 0;
  DType dtype = DType::kF32;
  float scale = 0;  // usually 1/sqrt(head_dim)
};

// q: [group_size][head_dim] fp32. out: [group_size][head_dim] fp32, lse: [group_size]. No pages:
// out 0, lse -inf.
void AttendPages(const AttentionShape& shape, const float* q, std::span<const PageView> pages,
                 float* out, float* lse);

// Merges partial (b) into (a), both [group_size][head_dim] with their lse.
void MergeAttention(uint32_t group_size, uint32_t head_dim, float* out_a, float* lse_a,
                    const float* out_b, const float* lse_b);

// mass[i] = log sum over page i's tokens of exp(scale * q.k), averaged over nothing:
// [group_size][pages]. The exact attention mass of a page is exp(mass - logsumexp over pages).
void PageLogMass(const AttentionShape& shape, const float* q, std::span<const PageView> pages,
                 float* log_mass);

// Float64 truth, for tests.
void AttendPagesReference(const AttentionShape& shape, const float* q,
                          std::span<const PageView> pages, double* out, double* lse);

}  // namespace varve::page
