#include "kvstore/page/lowrank/gram.h"

#include <algorithm>
#include <cassert>

#include "kvstore/page/lowrank/key_rows.h"
#include "kvstore/page/simd/kernels.h"

namespace varve::page {
namespace {

// Columns of keys lie together in panels: a kernel's tile then reads few cache lines and pages.
constexpr size_t kPanelFloats = size_t{GramAccumulator::kBlockTokens} * kGramBlock;
constexpr size_t kBlockDoubles = size_t{kGramBlock} * kGramBlock;

}  // namespace

GramAccumulator::GramAccumulator(uint32_t width)
    : width_(width),
      num_panels_((width + kGramBlock - 1) / kGramBlock),
      panels_(num_panels_ * kPanelFloats),
      blocks_(size_t{num_panels_} * (num_panels_ + 1) / 2 * kBlockDoubles) {
  assert(width >= 1 && width <= kMaxWidth);
}

std::optional<std::string> GramAccumulator::Append(const void* keys, uint32_t tokens, DType dtype) {
  if (auto wrong = NotFinite(keys, tokens_, tokens, width_, dtype)) return wrong;
  const KernelTable& kernels = Kernels();
  const auto* row = static_cast<const std::byte*>(keys);
  for (uint32_t t = 0; t < tokens; ++t) {
    const uint32_t at = open_tokens();
    for (uint32_t p = 0; p < num_panels_; ++p) {
      const uint32_t first = p * kGramBlock;
      kernels.to_floats(row + first * DTypeBytes(dtype), dtype,
                        std::min(kGramBlock, width_ - first),
                        panels_.data() + p * kPanelFloats + size_t{at} * kGramBlock);
    }
    row += width_ * DTypeBytes(dtype);
    ++tokens_;
    if (open_tokens() == 0) AddPanels(kBlockTokens, blocks_);
  }
  return std::nullopt;
}

void GramAccumulator::AddPanels(uint32_t tokens, std::vector<double>& blocks) const {
  double* block = blocks.data();
  for (uint32_t p = 0; p < num_panels_; ++p) {
    for (uint32_t q = p; q < num_panels_; ++q) {
      Kernels().add_gram_block(panels_.data() + p * kPanelFloats, panels_.data() + q * kPanelFloats,
                               tokens, block);
      block += kBlockDoubles;
    }
  }
}

std::vector<double> GramAccumulator::Matrix() const {
  std::vector<double> blocks = blocks_;
  if (open_tokens() > 0) AddPanels(open_tokens(), blocks);
  std::vector<double> matrix(size_t{width_} * width_);
  const double* block = blocks.data();
  for (uint32_t p = 0; p < num_panels_; ++p) {
    for (uint32_t q = p; q < num_panels_; ++q) {
      const uint32_t rows = std::min(kGramBlock, width_ - p * kGramBlock);
      const uint32_t cols = std::min(kGramBlock, width_ - q * kGramBlock);
      for (uint32_t r = 0; r < rows; ++r) {
        const size_t i = size_t{p} * kGramBlock + r;
        for (uint32_t c = 0; c < cols; ++c) {
          const size_t j = size_t{q} * kGramBlock + c;
          if (j < i) continue;
          matrix[i * width_ + j] = matrix[j * width_ + i] = block[r * kGramBlock + c];
        }
      }
      block += kBlockDoubles;
    }
  }
  return matrix;
}

void GramAccumulator::Reset() {
  tokens_ = 0;
  std::fill(blocks_.begin(), blocks_.end(), 0.0);
}

}  // namespace varve::page
