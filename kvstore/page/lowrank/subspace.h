// The subspace that a layer's low-rank keys live in (ShadowKV): the first r right singular vectors
// V_r of its pre-RoPE keys X, all KV heads side by side. A key x is kept as the row a = x V_r, and
// comes back as a B with B = V_r^T, of which each KV head needs only its own columns.
//
// Over the tokens that the Gram matrix is of, |X - A B|_F^2 is the sum of the eigenvalues that were
// dropped. Plain values: a Subspace is immutable once made, and can be shared between threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kvstore/page/lowrank/matrix_view.h"
#include "kvstore/page/lowrank/symmetric_eigen.h"

namespace varve::page {

struct RankRule {
  uint32_t rank = 160;  // r; with an energy the greatest r; at most num_kv_heads * head_dim
  // Share of the eigenvalues' sum to keep, 0 < energy <= 1: the smallest such r. 0: r is `rank`.
  double energy = 0;
};

struct Subspace {
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;  // a multiple of 8
  uint32_t rank = 0;
  DType dtype = DType::kBF16;       // of the basis
  std::vector<std::byte> basis;     // B: [kv head][rank][head_dim], rows in descending eigenvalue
  std::vector<double> eigenvalues;  // [rank]
  // Sums of all and of the dropped eigenvalues, and how many tokens they are of. Rounding of the
  // basis and of rows to their dtypes comes on top of what was dropped.
  double total_energy = 0;
  double discarded_energy = 0;
  uint64_t tokens = 0;

  uint32_t width() const { return num_kv_heads * head_dim; }
  // 1 where all keys were zero, or so small (below about 1e-19) that their squares vanished in the
  // fp32 sums of the Gram matrix.
  double kept_share() const { return total_energy > 0 ? 1 - discarded_energy / total_energy : 1; }
  BasisView view() const { return {basis.data(), dtype, num_kv_heads, rank, head_dim}; }
};

// gram: [width][width] of so many tokens (GramAccumulator), width = num_kv_heads * head_dim at most
// GramAccumulator::kMaxWidth. dtype: of the basis. Fewer tokens than the rank are no error: what
// they do not span is filled up with further orthonormal vectors of no energy. What is wrong and
// what is allowed, with out untouched, when there are no tokens, rank or energy are outside their
// range, or the matrix is not finite or of another size.
[[nodiscard]] std::optional<std::string> MakeSubspace(
    std::span<const double> gram, uint64_t tokens, uint32_t num_kv_heads, uint32_t head_dim,
    const RankRule& rule, DType dtype, Subspace& out,
    const SymmetricSolver& solver = DecomposeSymmetric);

// Adds what the subspace keeps of its tokens to the Gram matrix of others, [width][width], as if
// they had been so many: B^T diag(eigenvalues) B * tokens / subspace.tokens. The subspace of the
// sum is one of both.
void AddKept(const Subspace& subspace, uint64_t tokens, std::span<double> gram);

}  // namespace varve::page
