#include <algorithm>
#include <cstring>

#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/kernel_util.h"
#include "kvstore/page/simd/tables.h"

#if defined(__x86_64__)
// GCC 12 takes the deliberately undefined pass-through operand of its own intrinsics for a mistake
// (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace varve::page {
namespace {

#define VARVE_KERNEL VARVE_TARGET_AMX

// TDPBF16PS adds the product of a tile of 16 rows x 32 elements and one of 32 elements x 16 columns
// to one of 16 x 16 sums. A row of the result depends on its own row of the first tile alone, and
// sums go over the elements in order, two at a time. Numbers below 2^-126 count as zero.
constexpr uint32_t kRows = 16;
constexpr uint32_t kDepth = 32;
constexpr uint32_t kCols = 16;
constexpr size_t kTileBytes = 1024;

// What is laid out at once: of the matrix, and of as many rows as two tiles.
constexpr uint32_t kPanelDepth = 256;
constexpr uint32_t kPanelCols = 128;
constexpr size_t kRowStride = kPanelDepth * sizeof(uint16_t);
constexpr size_t kSumStride = kCols * sizeof(float);

// All tiles are of the greatest size.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

struct Panels {
  alignas(64) std::byte matrix[kPanelDepth / kDepth * (kPanelCols / kCols) * kTileBytes];
  alignas(64) uint16_t rows[2 * kRows][kPanelDepth];
  alignas(64) float sums[4][kRows][kCols];  // where not all of the tiles belong to the result
};

// Part of the matrix and of the result.
struct Part {
  uint32_t first_row = 0, depth = 0;  // of the matrix
  uint32_t first_col = 0, cols = 0;
  uint32_t depth_tiles() const { return (depth + kDepth - 1) / kDepth; }
  uint32_t col_tiles() const { return (cols + kCols - 1) / kCols; }
};

// Tile after tile, each with the elements of two rows side by side; zeros beyond the part.
VARVE_KERNEL void LayOutMatrix(const MatrixView& matrix, const Part& part, std::byte* to) {
  const auto* elements = reinterpret_cast<const uint16_t*>(matrix.elements);
  for (uint32_t k = 0; k < part.depth_tiles() * kDepth; k += 2) {
    const uint16_t* even = elements + size_t{part.first_row + k} * matrix.cols + part.first_col;
    for (uint32_t n = 0; n < part.col_tiles(); ++n) {
      const uint32_t left = part.cols - n * kCols;
      const auto mask = static_cast<__mmask16>(left < kCols ? (1u << left) - 1 : 0xffffu);
      const auto row = [&](uint32_t odd) VARVE_KERNEL {
        const __mmask16 there = k + odd < part.depth ? mask : __mmask16{0};
        return _mm512_cvtepu16_epi32(
            _mm256_maskz_loadu_epi16(there, even + size_t{odd} * matrix.cols + n * kCols));
      };
      const __m512i pairs = _mm512_or_si512(row(0), _mm512_slli_epi32(row(1), 16));
      const size_t tile = size_t{k / kDepth} * part.col_tiles() + n;
      _mm512_store_si512(to + tile * kTileBytes + k % kDepth / 2 * 64, pairs);
    }
  }
}

// Zeros beyond the part.
VARVE_KERNEL void LayOutRows(std::span<const std::byte* const> rows, const Part& part,
                             Panels& panels) {
  for (size_t r = 0; r < 2 * kRows; ++r) {
    const uint32_t there = r < rows.size() ? part.depth : 0;
    for (uint32_t k = 0; k < part.depth_tiles() * kDepth; k += kDepth) {
      const uint32_t left = there - std::min(k, there);
      const __mmask32 mask = left < kDepth ? (__mmask32{1} << left) - 1 : ~__mmask32{0};
      const std::byte* from =
          there > 0 ? rows[r] + (part.first_row + k) * sizeof(uint16_t) : nullptr;
      _mm512_store_si512(&panels.rows[r][k], _mm512_maskz_loadu_epi16(mask, from));
    }
  }
}

// Rows are scattered, so the hardware prefetchers do not find the next ones.
void PrefetchRows(std::span<const std::byte* const> rows, const Part& part) {
  for (size_t r = 0; r < rows.size() && r < 2 * kRows; ++r) {
    const std::byte* row = rows[r] + part.first_row * sizeof(uint16_t);
    for (size_t line = 0; line < part.depth * sizeof(uint16_t); line += RowPrefetcher::kLineBytes) {
      __builtin_prefetch(row + line);
    }
  }
}

// Two tiles of rows by two of columns, of which the first belongs to the result at least.
VARVE_KERNEL void MultiplyTiles(const Part& part, uint32_t n, uint32_t count, float* out,
                                size_t out_stride, Panels& panels) {
  const bool add = part.first_row > 0;
  const uint32_t left = part.cols - n * kCols;
  const uint32_t cols = left < 2 * kCols ? left : 2 * kCols;
  const bool whole = count == 2 * kRows && cols == 2 * kCols && !add;
  // Sum (row, column) is in the tile 2 * (row / 16) + column / 16.
  const auto sums = [&panels](uint32_t r, uint32_t c) -> float* {
    return &panels.sums[2 * (r / kRows) + c / kCols][r % kRows][c % kCols];
  };
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (add) {
    for (uint32_t r = 0; r < count; ++r) {
      for (uint32_t c = 0; c < cols; c += 8) {
        std::memcpy(sums(r, c), out + r * out_stride + c, 8 * sizeof(float));
      }
    }
    asm volatile("" : : : "memory");
    _tile_loadd(0, panels.sums[0], kSumStride);
    _tile_loadd(1, panels.sums[1], kSumStride);
    _tile_loadd(2, panels.sums[2], kSumStride);
    _tile_loadd(3, panels.sums[3], kSumStride);
  }
  const size_t next = cols > kCols ? kTileBytes : 0;
  for (uint32_t k = 0; k < part.depth_tiles(); ++k) {
    const std::byte* b = panels.matrix + (size_t{k} * part.col_tiles() + n) * kTileBytes;
    _tile_loadd(4, &panels.rows[0][k * kDepth], kRowStride);
    _tile_loadd(5, &panels.rows[kRows][k * kDepth], kRowStride);
    _tile_loadd(6, b, 64);
    _tile_loadd(7, b + next, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  if (whole) {
    const size_t stride = out_stride * sizeof(float);
    _tile_stored(0, out, stride);
    _tile_stored(1, out + kCols, stride);
    _tile_stored(2, out + kRows * out_stride, stride);
    _tile_stored(3, out + kRows * out_stride + kCols, stride);
    return;
  }
  _tile_stored(0, panels.sums[0], kSumStride);
  _tile_stored(1, panels.sums[1], kSumStride);
  _tile_stored(2, panels.sums[2], kSumStride);
  _tile_stored(3, panels.sums[3], kSumStride);
  for (uint32_t r = 0; r < count; ++r) {
    for (uint32_t c = 0; c < cols; c += 8) {
      std::memcpy(out + r * out_stride + c, sums(r, c), 8 * sizeof(float));
    }
  }
}

VARVE_KERNEL void MultiplyRowsKernel(std::span<const std::byte* const> rows, DType dtype,
                                     const MatrixView& matrix, float* out, size_t out_stride) {
  if (dtype != DType::kBF16 || matrix.dtype != DType::kBF16) {
    return kAvx512Kernels.multiply_rows(rows, dtype, matrix, out, out_stride);
  }
  static constexpr TileConfig kConfig;
  Panels panels;
  _tile_loadconfig(&kConfig);
  for (uint32_t col = 0; col < matrix.cols; col += kPanelCols) {
    for (uint32_t row = 0; row < matrix.rows; row += kPanelDepth) {
      const Part part = {row, std::min(kPanelDepth, matrix.rows - row), col,
                         std::min(kPanelCols, matrix.cols - col)};
      LayOutMatrix(matrix, part, panels.matrix);
      for (size_t t = 0; t < rows.size(); t += 2 * kRows) {
        const auto some = rows.subspan(t, std::min<size_t>(2 * kRows, rows.size() - t));
        PrefetchRows(rows.subspan(t + some.size()), part);
        LayOutRows(some, part, panels);
        // The tile loads of GCC do not say that they read memory.
        asm volatile("" : : : "memory");
        for (uint32_t n = 0; n < part.col_tiles(); n += 2) {
          MultiplyTiles(part, n, static_cast<uint32_t>(some.size()),
                        out + t * out_stride + col + n * kCols, out_stride, panels);
        }
      }
    }
  }
  _tile_release();
}

}  // namespace

const KernelTable& AmxKernels() {
  static const KernelTable table = [] {
    KernelTable t = Avx512BF16Kernels();
    t.name = "amx";
    t.multiply_rows = MultiplyRowsKernel;
    return t;
  }();
  return table;
}

}  // namespace varve::page

#endif  // __x86_64__
