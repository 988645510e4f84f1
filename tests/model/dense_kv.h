// The whole KV of one layer of one sequence in memory, in the blocked form that the attention
// kernels read, and exact attention over it. Not thread-safe; const methods may run in parallel.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/model/kernels.h"
#include "tests/model/tiny_model.h"

namespace varve::model {

class DenseKv {
 public:
  DenseKv(const ModelConfig& config, const Kernels& kernels);

  // k, v: [tokens][kv_heads][head_dim], k post-RoPE.
  void Append(const float* k, const float* v, uint32_t tokens);

  uint32_t tokens() const { return tokens_; }
  // tokens() rounded up to whole blocks: the row length of a score matrix.
  uint32_t PaddedTokens() const { return Blocks() * kBlockTokens; }

  // Causal attention of a run of prompt tokens whose KV is already appended: q and out
  // [tokens][query_heads][head_dim], positions first_position, ... Up to `threads` threads.
  void AttendCausal(const float* q, uint32_t tokens, uint32_t first_position, int threads,
                    float* out) const;

  // One query, one KV head: q [Group()][head_dim] -> scores [Group()][PaddedTokens()], q . k /
  // sqrt(head_dim); columns from tokens() on are unspecified.
  void Scores(uint32_t kv_head, const float* q, float* scores) const;
  // weights [Group()][PaddedTokens()], zero from tokens() on -> out [Group()][head_dim].
  void WeightedValues(uint32_t kv_head, const float* weights, float* out) const;

  // The key of one token, copied to key[head_dim].
  void CopyKey(uint32_t kv_head, uint32_t token, float* key) const;

 private:
  // Per KV head, blocks of kBlockTokens tokens: keys [head_dim][token], values [token][head_dim].
  // Slots not yet filled hold zeros, because a weight of 0 times anything else might be NaN.
  struct Head {
    std::vector<float> keys;
    std::vector<float> values;
  };

  uint32_t Blocks() const { return (tokens_ + kBlockTokens - 1) / kBlockTokens; }
  size_t BlockFloats() const { return size_t{kBlockTokens} * config_.head_dim; }
  void AttendTile(uint32_t kv_head, const float* q, uint32_t tokens, uint32_t first_position,
                  float* out) const;

  const ModelConfig config_;
  const Kernels& kernels_;
  std::vector<Head> heads_;
  uint32_t tokens_ = 0;
};

}  // namespace varve::model
