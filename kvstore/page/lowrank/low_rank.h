// Low-rank keys (ShadowKV): a token's pre-RoPE key of all KV heads as one row of r numbers.
//
// Project makes rows a = x V_r, Rebuild makes keys a B of one KV head. Both are fp32 products
// summed in one fixed order: what becomes of a token depends on its own row alone, not on the
// others of a call or their order. Between instruction sets results differ by fp32 rounding, at
// most width * 2^-23 of sum_i |x_i v_i| for a projection and rank * 2^-23 of sum_j |a_j b_j| for a
// rebuilt key, where numbers of bf16 below 2^-126 may count as zero. Rounding to 16 bits is to
// nearest even; what is finite and beyond a dtype becomes
// its greatest finite number.
//
// No NaN and no infinity comes in or out: Project refuses keys that have them, and keys with a norm
// above kMaxKeyNorm. No sum of fp32 products of others, in any order, leaves fp32; nor does what is
// rebuilt of their rows. Rows that were made otherwise must keep to that norm.
//
// Low rank saves memory, not bytes moved: a row is read for every (token, KV head) that is
// selected. Rebuild is bound by multiply-adds (rank * head_dim a key).
// Thread-safe; no exceptions but those of the allocator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvstore/page/lowrank/subspace.h"

namespace varve::page {

// What the projected tokens were, and what of them the subspace does not have.
struct ProjectionEnergy {
  uint64_t tokens = 0;
  double total = 0;     // sum |x|^2
  double residual = 0;  // sum max(0, |x|^2 - |x V_r|^2), before rows are rounded

  void Add(const ProjectionEnergy& other) {
    tokens += other.tokens;
    total += other.total;
    residual += other.residual;
  }
  // 0 where all keys were zero.
  double residual_share() const { return total > 0 ? residual / total : 0; }
};

// When tokens that came after a subspace was made call for a new one. ShadowKV keeps the prompt's
// for good, which costs quality on long generations.
struct RefreshRule {
  // Fewer are no evidence; nor do fewer than there are channels make a subspace that lasts.
  uint64_t min_tokens = 256;
  // Of their energy, outside the subspace beyond what it dropped of its own tokens. 1: never.
  double residual_share = 0.1;

  bool Due(const Subspace& subspace, const ProjectionEnergy& since) const {
    const double dropped = 1 - subspace.kept_share();
    return since.tokens >= min_tokens && since.residual_share() > dropped + residual_share;
  }
};

inline size_t RowBytes(const Subspace& subspace, DType rows_dtype) {
  return subspace.rank * DTypeBytes(rows_dtype);
}

// |sum x_i v_i| of any of the channels is at most the norm of the key times that of the vector: 2^8
// times below what fp32 holds, for the rounding of basis and rows and for what is made of rows.
inline constexpr double kMaxKeyNorm = 0x1p120;

// rows [tokens][rank] of rows_dtype from pre-RoPE keys [token][kv head][head_dim] of dtype. Adds to
// energy, if given, token by token: the sums do not depend on the split into calls. What is wrong,
// naming token (of this call), when a key is NaN or infinite or its norm is above kMaxKeyNorm: then
// nothing is written.
[[nodiscard]] std::optional<std::string> Project(const Subspace& subspace, const void* keys,
                                                 uint32_t tokens, DType dtype, DType rows_dtype,
                                                 void* rows, ProjectionEnergy* energy);

// Pre-RoPE keys of one KV head: key of rows[t] at out + t * out_stride_bytes, head_dim elements of
// out_dtype. rows: of rows_dtype, in any order and any places; kv_head < num_kv_heads.
// out is aligned to its dtype, out_stride_bytes a multiple of its size.
void Rebuild(const Subspace& subspace, uint32_t kv_head, std::span<const std::byte* const> rows,
             DType rows_dtype, DType out_dtype, void* out, size_t out_stride_bytes);

}  // namespace varve::page
