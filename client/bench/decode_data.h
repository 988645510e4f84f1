// Keys and values of a long prompt, made up such that decode benchmarks move and compute what a
// model's would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kvstore/page/geometry.h"

namespace varve::client {

// Keys before RoPE, all KV heads side by side, are of a planted spectrum: kPlantedRank directions
// whose energy falls as 1 / index, and 1 % of noise in all others. What a token has of them goes on
// from token to token, as the keys of a text do, so that pages differ. Then they are turned by
// their positions. Values are random.
class PlantedPrompt {
 public:
  static constexpr uint32_t kPlantedRank = 128;

  // REQUIRES: bf16 and RoPE parameters. num_layers and page_tokens do not matter.
  PlantedPrompt(const page::Geometry& geometry, uint32_t tokens);

  uint32_t tokens() const { return tokens_; }
  // [tokens][num_kv_heads][head_dim] from a token on.
  const uint16_t* KeysFrom(uint32_t token) const { return &keys_[token * width_]; }
  const uint16_t* ValuesFrom(uint32_t token) const { return &values_[token * width_]; }

 private:
  void MakeKeys(const page::Geometry& geometry);

  const uint32_t tokens_;
  const size_t width_;
  std::vector<uint16_t> keys_, values_;
};

}  // namespace varve::client
