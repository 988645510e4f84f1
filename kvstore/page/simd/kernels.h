// The vectorised inner loops of this room, one table per instruction set, chosen once by CPUID.
// Internal to page.
//
// Each table is compiled from the same source (kernels_body.h) over a different vector type
// (vec_*.h), so the implementations differ in width and in fused multiply-add, not in meaning.
// Digest loops never fuse: their results are equal bit for bit on every CPU. Thread-safe; no
// allocation. Keys, values, digests and rows, which are given as bytes or void, need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "kvstore/page/attention.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/page/digest/sketch.h"
#include "kvstore/page/dtype.h"
#include "kvstore/page/lowrank/matrix_view.h"

namespace varve::page {

struct KernelTable {
  std::string_view name;

  // hi = max, lo = min, sum += over keys [tokens][head_dim], in token order, per channel.
  void (*accumulate_statistics)(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                                float* hi, float* lo, float* sum);
  // deviation += |key - Center(hi, lo)|, in token order, per channel.
  void (*accumulate_deviation)(const void* keys, uint32_t tokens, uint32_t head_dim, DType dtype,
                               const float* hi, const float* lo, float* deviation);
  // raw[g * num_pages + i] = row i . weights of head g; of sketches, as sketch_log_mass.
  ScoreFn score_pages;
  SketchFn sketch_log_mass;
  // row[i] = exp(scale * (row[i] - max)); returns the sum. Entries are finite or -inf, max is
  // finite.
  float (*exp_and_sum)(float* row, uint32_t count, float max, float scale);
  float (*row_max)(const float* row, uint32_t count);
  // accumulator = accumulator + factor * row, or the maximum of both.
  void (*add_scaled)(float* accumulator, const float* row, uint32_t count, float factor);
  void (*max_scaled)(float* accumulator, const float* row, uint32_t count, float factor);

  void (*attend_pages)(const AttentionShape& shape, const float* q, std::span<const PageView> pages,
                       float* out, float* lse);
  void (*page_log_mass)(const AttentionShape& shape, const float* q,
                        std::span<const PageView> pages, float* log_mass);

  // Exact; and of finite numbers: to nearest even, what is beyond the dtype to its greatest one.
  void (*to_floats)(const void* from, DType dtype, uint32_t count, float* to);
  void (*from_floats)(const float* from, uint32_t count, DType dtype, void* to);
  // sum_i a_i b_i in fp64, in eight parts: equal bit for bit on every CPU.
  double (*dot_f64)(const float* a, const float* b, uint32_t count);
  // out[t * out_stride + c] = sum_k rows[t][k] matrix[k][c]. Each element of this and the next two
  // is a sum in one fixed order: it does not depend on the other rows and columns.
  void (*multiply_rows)(std::span<const std::byte* const> rows, DType dtype,
                        const MatrixView& matrix, float* out, size_t out_stride);
  // out[t * rank + j] = row t of x [count][heads * head_dim] . basis vector j.
  void (*project_rows)(const float* x, uint32_t count, const BasisView& basis, float* out);
  // block[i][j] += sum_t rows[t][i] cols[t][j], of kGramBlock x kGramBlock; rows and cols are
  // [tokens][kGramBlock]. The sum over the tokens is in fp32.
  void (*add_gram_block)(const float* rows, const float* cols, uint32_t tokens, double* block);
};

constexpr size_t kMaxKernelTables = 7;

// The best table for this CPU.
const KernelTable& Kernels();
// All tables that this CPU can run, best first.
std::span<const KernelTable* const> AllKernels();

}  // namespace varve::page
