// Forward pass of a small Llama (RMS norm, rotate-half RoPE, grouped-query attention, SwiGLU, tied
// embedding), fp32.
//
// TinyModel holds weights and offers the pieces between which an engine puts its attention:
//   x = Embed(tokens); per layer { q, k, v = LayerQkv(x); a = attention(q, KV); x = LayerRest(a, x)
//   }; Logits(x)
// All arrays are row-major fp32 and belong to the caller. Immutable after Load, any number of
// threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvstore/page/rope_parameters.h"
#include "tests/model/kernels.h"

namespace varve::model {

// Field names of a Hugging Face Llama config.json in comments.
struct ModelConfig {
  uint32_t hidden = 0;         // hidden_size
  uint32_t ffn = 0;            // intermediate_size
  uint32_t layers = 0;         // num_hidden_layers
  uint32_t query_heads = 0;    // num_attention_heads
  uint32_t kv_heads = 0;       // num_key_value_heads
  uint32_t head_dim = 0;       // head_dim
  uint32_t vocab = 0;          // vocab_size
  uint32_t max_positions = 0;  // max_position_embeddings
  double rope_theta = 0;       // rope_theta
  float rms_eps = 0;           // rms_norm_eps

  uint32_t Group() const { return query_heads / kv_heads; }
  uint32_t QueryWidth() const { return query_heads * head_dim; }
  uint32_t KvWidth() const { return kv_heads * head_dim; }
};

// How the model turns its keys: what Varve's page room needs to turn keys to the same bits.
page::RopeParameters RopeOf(const ModelConfig& config);

// INVALID_ARGUMENT names the missing or wrong field and what is allowed.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& path);

struct ModelOptions {
  int threads = 2;  // for calls with many tokens; a single token runs on the caller's thread
  const Kernels* kernels = nullptr;  // null: BestKernels()
};

class TinyModel {
 public:
  // Reads DIR/config.json and DIR/model.safetensors. INVALID_ARGUMENT or NOT_FOUND says which file,
  // field or tensor is wrong; tensors that the architecture does not know are an error too.
  static absl::StatusOr<TinyModel> Load(const std::string& dir, const ModelOptions& options = {});

  const ModelConfig& config() const { return config_; }
  const Kernels& kernels() const { return *kernels_; }
  int threads() const { return threads_; }

  // x: [tokens][hidden]. INVALID_ARGUMENT for a token id outside the vocabulary.
  absl::Status Embed(absl::Span<const int32_t> tokens, float* x) const;
  // q: [tokens][query_heads][head_dim], k and v: [tokens][kv_heads][head_dim]; q and k post-RoPE
  // for positions first_position, first_position + 1, ... REQUIRES: first_position + tokens <=
  // max_positions.
  void LayerQkv(uint32_t layer, const float* x, uint32_t tokens, uint32_t first_position, float* q,
                float* k, float* v) const;
  // Output projection, residual and feed-forward, in place on x; attention:
  // [tokens][query_heads][head_dim].
  void LayerRest(uint32_t layer, const float* attention, uint32_t tokens, float* x) const;
  // logits: [tokens][vocab].
  void Logits(const float* x, uint32_t tokens, float* logits) const;

 private:
  // Matrices are stored transposed, [in][out], as the kernels read them.
  struct Layer {
    std::vector<float> input_norm, post_norm;
    std::vector<float> qkv;  // columns: all q, all k, all v
    std::vector<float> output, gate, up, down;
  };
  class Loader;

  TinyModel() = default;
  void FillRopeTable();
  void Rms(const float* x, uint32_t tokens, const std::vector<float>& weight, float* y) const;
  void Multiply(const float* x, uint32_t tokens, uint32_t in, const std::vector<float>& weight,
                uint32_t out, float* y, bool accumulate) const;
  void Rope(const float* from, uint32_t heads, uint32_t position, float* to) const;
  void QkvTile(const Layer& layer, const float* x, uint32_t tokens, uint32_t first_position,
               float* q, float* k, float* v) const;
  void RestTile(const Layer& layer, const float* attention, uint32_t tokens, float* x) const;

  ModelConfig config_;
  const Kernels* kernels_ = nullptr;
  int threads_ = 1;
  std::vector<float> embedding_;             // [vocab][hidden]
  std::vector<float> embedding_transposed_;  // [hidden][vocab]
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;
  std::vector<float> rope_cos_, rope_sin_;  // [max_positions][head_dim / 2]
};

}  // namespace varve::model
