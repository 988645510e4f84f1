#include "kvstore/page/lowrank/subspace.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "kvstore/page/lowrank/gram.h"

namespace varve::page {
namespace {

std::optional<std::string> Wrong(std::span<const double> gram, uint64_t tokens,
                                 uint32_t num_kv_heads, uint32_t head_dim, const RankRule& rule) {
  const uint64_t width = uint64_t{num_kv_heads} * head_dim;
  if (head_dim == 0 || head_dim % 8 != 0) {
    return "head_dim is " + std::to_string(head_dim) + ", allowed: a multiple of 8";
  }
  if (width == 0 || width > GramAccumulator::kMaxWidth) {
    return "num_kv_heads x head_dim is " + std::to_string(width) + ", allowed: 1.." +
           std::to_string(GramAccumulator::kMaxWidth);
  }
  if (gram.size() != width * width) {
    return "the Gram matrix has " + std::to_string(gram.size()) +
           " elements, allowed: " + std::to_string(width) + " x " + std::to_string(width);
  }
  if (tokens == 0) return std::string("a subspace of no tokens, allowed: at least 1");
  if (rule.rank < 1 || rule.rank > width) {
    return "rank is " + std::to_string(rule.rank) + ", allowed: 1.." + std::to_string(width) +
           " (num_kv_heads x head_dim)";
  }
  if (!(rule.energy >= 0 && rule.energy <= 1)) {
    char text[32];
    std::snprintf(text, sizeof(text), "%g", rule.energy);
    return "energy is " + std::string(text) + ", allowed: 0..1 (0: the rank as it is)";
  }
  if (!std::all_of(gram.begin(), gram.end(), [](double v) { return std::isfinite(v); })) {
    return std::string("the Gram matrix is not finite: keys are too large for their squares");
  }
  return std::nullopt;
}

// The smallest rank that keeps the share, at most rule.rank.
uint32_t RankByRule(const std::vector<double>& values, double total, const RankRule& rule) {
  if (rule.energy == 0) return rule.rank;
  double kept = 0;
  uint32_t rank = 0;
  while (rank < rule.rank && (rank == 0 || kept < rule.energy * total)) kept += values[rank++];
  return rank;
}

}  // namespace

std::optional<std::string> MakeSubspace(std::span<const double> gram, uint64_t tokens,
                                        uint32_t num_kv_heads, uint32_t head_dim,
                                        const RankRule& rule, DType dtype, Subspace& out,
                                        const SymmetricSolver& solver) {
  if (auto wrong = Wrong(gram, tokens, num_kv_heads, head_dim, rule)) return wrong;
  const uint32_t width = num_kv_heads * head_dim;
  SymmetricEigen eigen;
  if (!solver(gram, width, eigen)) {
    return std::string("the eigenvalues of the Gram matrix do not converge");
  }
  // A sum of squares has no negative eigenvalue; rounding can make one.
  for (double& value : eigen.values) value = std::max(value, 0.0);
  double total = 0;
  for (const double value : eigen.values) total += value;

  Subspace made;
  made.num_kv_heads = num_kv_heads;
  made.head_dim = head_dim;
  made.rank = RankByRule(eigen.values, total, rule);
  made.dtype = dtype;
  made.total_energy = total;
  for (uint32_t j = width; j-- > made.rank;) made.discarded_energy += eigen.values[j];
  made.tokens = tokens;
  made.eigenvalues.assign(eigen.values.begin(), eigen.values.begin() + made.rank);
  made.basis.resize(size_t{width} * made.rank * DTypeBytes(dtype));
  for (uint32_t h = 0; h < num_kv_heads; ++h) {
    for (uint32_t j = 0; j < made.rank; ++j) {
      const double* vector = &eigen.vectors[size_t{j} * width + h * head_dim];
      const size_t row = (size_t{h} * made.rank + j) * head_dim;
      for (uint32_t i = 0; i < head_dim; ++i) {
        StoreF32(made.basis.data(), dtype, row + i, static_cast<float>(vector[i]));
      }
    }
  }
  out = std::move(made);
  return std::nullopt;
}

void AddKept(const Subspace& subspace, uint64_t tokens, std::span<double> gram) {
  const uint32_t width = subspace.width();
  const uint32_t d = subspace.head_dim;
  const double scale = static_cast<double>(tokens) / static_cast<double>(subspace.tokens);
  std::vector<double> row(width);
  for (uint32_t j = 0; j < subspace.rank; ++j) {
    for (uint32_t i = 0; i < width; ++i) {
      const size_t at = (size_t{i / d} * subspace.rank + j) * d + i % d;
      row[i] = LoadAsF32(subspace.basis.data(), subspace.dtype, at);
    }
    for (uint32_t i = 0; i < width; ++i) {
      const double weight = scale * subspace.eigenvalues[j] * row[i];
      for (uint32_t k = 0; k < width; ++k) gram[size_t{i} * width + k] += weight * row[k];
    }
  }
}

}  // namespace varve::page
