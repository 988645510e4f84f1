#include "kvstore/page/lowrank/low_rank.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdio>

#include "kvstore/page/lowrank/key_rows.h"
#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

constexpr uint32_t kTileTokens = 48;  // a multiple of the rows of every kernel's tiles

void AddEnergy(const float* key, uint32_t width, const float* row, uint32_t rank,
               ProjectionEnergy& energy) {
  const KernelTable& kernels = Kernels();
  const double total = kernels.dot_f64(key, key, width);
  ++energy.tokens;
  energy.total += total;
  energy.residual += std::max(0.0, total - kernels.dot_f64(row, row, rank));
}

// Calls fn(first, count, x) with the keys of tiles of tokens as floats, until it says false.
template <typename Fn>
void ForEachTile(const void* keys, uint32_t tokens, uint32_t width, DType dtype, Fn&& fn) {
  std::vector<float> x(size_t{std::min(kTileTokens, tokens)} * width);
  const auto* from = static_cast<const std::byte*>(keys);
  for (uint32_t t = 0; t < tokens; t += kTileTokens) {
    const uint32_t count = std::min(kTileTokens, tokens - t);
    Kernels().to_floats(from + size_t{t} * width * DTypeBytes(dtype), dtype, count * width,
                        x.data());
    if (!fn(t, count, x.data())) return;
  }
}

std::optional<std::string> TooLarge(const void* keys, uint32_t tokens, uint32_t width,
                                    DType dtype) {
  std::optional<std::string> wrong;
  ForEachTile(keys, tokens, width, dtype, [&](uint32_t first, uint32_t count, const float* x) {
    for (uint32_t i = 0; i < count && !wrong; ++i, x += width) {
      const double norm = std::sqrt(Kernels().dot_f64(x, x, width));
      if (norm <= kMaxKeyNorm) continue;
      char text[96];
      std::snprintf(text, sizeof(text), " has the norm %g, allowed: at most %g", norm, kMaxKeyNorm);
      wrong = "key of token " + std::to_string(first + i) + text;
    }
    return !wrong.has_value();
  });
  return wrong;
}

// Products of rows with a matrix, rounded to a dtype.
void Multiply(std::span<const std::byte* const> rows, DType rows_dtype, const MatrixView& matrix,
              uint32_t out_cols, DType out_dtype, void* out, size_t out_stride_bytes) {
  const KernelTable& kernels = Kernels();
  if (out_dtype == DType::kF32 && out_cols == matrix.cols) {
    return kernels.multiply_rows(rows, rows_dtype, matrix, static_cast<float*>(out),
                                 out_stride_bytes / sizeof(float));
  }
  std::vector<float> tile(std::min<size_t>(kTileTokens, rows.size()) * matrix.cols);
  auto* to = static_cast<std::byte*>(out);
  for (size_t t = 0; t < rows.size(); t += kTileTokens) {
    const size_t count = std::min<size_t>(kTileTokens, rows.size() - t);
    kernels.multiply_rows(rows.subspan(t, count), rows_dtype, matrix, tile.data(), matrix.cols);
    for (size_t i = 0; i < count; ++i) {
      kernels.from_floats(tile.data() + i * matrix.cols, out_cols, out_dtype, to);
      to += out_stride_bytes;
    }
  }
}

}  // namespace

std::optional<std::string> Project(const Subspace& subspace, const void* keys, uint32_t tokens,
                                   DType dtype, DType rows_dtype, void* rows,
                                   ProjectionEnergy* energy) {
  const uint32_t width = subspace.width();
  const uint32_t rank = subspace.rank;
  if (auto wrong = NotFinite(keys, 0, tokens, width, dtype)) return wrong;
  if (auto wrong = TooLarge(keys, tokens, width, dtype)) return wrong;
  const KernelTable& kernels = Kernels();
  std::vector<float> a(size_t{std::min(kTileTokens, tokens)} * rank);
  auto* to = static_cast<std::byte*>(rows);
  ForEachTile(keys, tokens, width, dtype, [&](uint32_t first, uint32_t count, const float* x) {
    kernels.project_rows(x, count, subspace.view(), a.data());
    kernels.from_floats(a.data(), count * rank, rows_dtype,
                        to + size_t{first} * RowBytes(subspace, rows_dtype));
    for (uint32_t i = 0; i < count && energy != nullptr; ++i) {
      AddEnergy(x + size_t{i} * width, width, &a[size_t{i} * rank], rank, *energy);
    }
    return true;
  });
  return std::nullopt;
}

void Rebuild(const Subspace& subspace, uint32_t kv_head, std::span<const std::byte* const> rows,
             DType rows_dtype, DType out_dtype, void* out, size_t out_stride_bytes) {
  assert(kv_head < subspace.num_kv_heads);
  const size_t head_bytes = size_t{subspace.rank} * subspace.head_dim * DTypeBytes(subspace.dtype);
  const MatrixView basis = {subspace.basis.data() + kv_head * head_bytes, subspace.dtype,
                            subspace.rank, subspace.head_dim};
  Multiply(rows, rows_dtype, basis, subspace.head_dim, out_dtype, out, out_stride_bytes);
}

}  // namespace varve::page
