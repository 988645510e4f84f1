// The Gram matrix X^T X of the pre-RoPE keys of one layer, all KV heads side by side: what a
// low-rank subspace is made from (after ShadowKV, which decomposes X itself and needs the whole
// prompt at once; X^T X has the same right singular vectors and can be summed up during a chunked
// prefill).
//
// The result does not depend, bit for bit, on how the tokens were split into calls: tokens are
// gathered in blocks of kBlockTokens by their position; a block's products are summed in fp32 in
// token order, blocks in fp64. So an element is off by at most kBlockTokens * 2^-23 of
// sum_t |x_i x_j|. Between instruction sets results differ by that rounding. A token costs
// width^2 / 2 multiply-adds, memory is 4 width^2 + 512 width bytes and a little.
//
// Not thread-safe; no exceptions but those of the allocator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kvstore/page/dtype.h"

namespace varve::page {

class GramAccumulator {
 public:
  static constexpr uint32_t kMaxWidth = 8192;
  static constexpr uint32_t kBlockTokens = 128;

  // width = num_kv_heads * head_dim, 1 .. kMaxWidth.
  explicit GramAccumulator(uint32_t width);

  // The next tokens' keys, [token][width] of dtype. What is wrong, naming token and channel, when
  // any is NaN or infinite; the accumulator is then as before.
  [[nodiscard]] std::optional<std::string> Append(const void* keys, uint32_t tokens, DType dtype);

  // Of all tokens so far: [width][width], symmetric. Infinite where squares of keys exceed fp32.
  // Products below 2^-126, those of keys below about 1e-19, lose digits in fp32, and below 2^-150
  // they vanish: keys that are all below 2e-23 give a matrix of zeros.
  std::vector<double> Matrix() const;

  uint32_t width() const { return width_; }
  uint64_t tokens() const { return tokens_; }
  // Bytes held.
  size_t bytes() const { return panels_.size() * sizeof(float) + blocks_.size() * sizeof(double); }
  void Reset();

 private:
  // Adds what the panels hold to the blocks.
  void AddPanels(uint32_t tokens, std::vector<double>& blocks) const;
  uint32_t open_tokens() const { return static_cast<uint32_t>(tokens_ % kBlockTokens); }

  uint32_t width_;
  uint32_t num_panels_;
  uint64_t tokens_ = 0;
  std::vector<float> panels_;   // the open block: [panel][kBlockTokens][kGramBlock], zero-padded
  std::vector<double> blocks_;  // [panel p][panel q >= p][kGramBlock][kGramBlock]
};

}  // namespace varve::page
