#include "tests/model/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvstore/base/status.h"
#include "tests/model/parallel.h"
#include "tests/model/safetensors.h"

namespace varve::model {
namespace {

// Tokens that one thread takes through a layer together: activations stay in the second-level
// cache.
constexpr uint32_t kTileTokens = 48;

uint32_t Tiles(uint32_t tokens) { return (tokens + kTileTokens - 1) / kTileTokens; }
uint32_t TileSize(uint32_t tile, uint32_t tokens) {
  return std::min(kTileTokens, tokens - tile * kTileTokens);
}

}  // namespace

// Takes tensors out of a file's map, checking name and shape.
class TinyModel::Loader {
 public:
  explicit Loader(std::map<std::string, Tensor> tensors) : tensors_(std::move(tensors)) {}

  absl::StatusOr<std::vector<float>> Take(const std::string& name,
                                          const std::vector<uint64_t>& shape) {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is missing"));
    }
    if (it->second.shape != shape) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, " has shape [", absl::StrJoin(it->second.shape, ", "),
                       "], the config asks for [", absl::StrJoin(shape, ", "), "]"));
    }
    std::vector<float> data = std::move(it->second.data);
    tensors_.erase(it);
    return data;
  }

  // Writes the [out][in] matrix `name` transposed into columns [column, column + out) of a
  // [in][columns] matrix.
  absl::Status TakeTransposed(const std::string& name, uint32_t out, uint32_t in, uint32_t column,
                              uint32_t columns, std::vector<float>* to) {
    VARVE_ASSIGN_OR_RETURN(const std::vector<float> matrix, Take(name, {out, in}));
    to->resize(size_t{in} * columns);
    for (uint32_t o = 0; o < out; ++o) {
      for (uint32_t i = 0; i < in; ++i) {
        (*to)[size_t{i} * columns + column + o] = matrix[size_t{o} * in + i];
      }
    }
    return absl::OkStatus();
  }

  absl::Status TakeLayer(uint32_t index, const ModelConfig& c, Layer* layer) {
    const std::string p = absl::StrCat("model.layers.", index, ".");
    const uint32_t qkv = c.QueryWidth() + 2 * c.KvWidth();
    VARVE_ASSIGN_OR_RETURN(layer->input_norm, Take(p + "input_layernorm.weight", {c.hidden}));
    VARVE_ASSIGN_OR_RETURN(layer->post_norm,
                           Take(p + "post_attention_layernorm.weight", {c.hidden}));
    const auto take = [&](const char* name, uint32_t out, uint32_t in, uint32_t column,
                          uint32_t columns, std::vector<float>* to) {
      return TakeTransposed(p + name, out, in, column, columns, to);
    };
    VARVE_RETURN_IF_ERROR(
        take("self_attn.q_proj.weight", c.QueryWidth(), c.hidden, 0, qkv, &layer->qkv));
    VARVE_RETURN_IF_ERROR(
        take("self_attn.k_proj.weight", c.KvWidth(), c.hidden, c.QueryWidth(), qkv, &layer->qkv));
    VARVE_RETURN_IF_ERROR(take("self_attn.v_proj.weight", c.KvWidth(), c.hidden,
                               c.QueryWidth() + c.KvWidth(), qkv, &layer->qkv));
    VARVE_RETURN_IF_ERROR(
        take("self_attn.o_proj.weight", c.hidden, c.QueryWidth(), 0, c.hidden, &layer->output));
    VARVE_RETURN_IF_ERROR(take("mlp.gate_proj.weight", c.ffn, c.hidden, 0, c.ffn, &layer->gate));
    VARVE_RETURN_IF_ERROR(take("mlp.up_proj.weight", c.ffn, c.hidden, 0, c.ffn, &layer->up));
    return take("mlp.down_proj.weight", c.hidden, c.ffn, 0, c.hidden, &layer->down);
  }

  absl::Status Fill(TinyModel* model) {
    const ModelConfig& c = model->config_;
    const std::string embedding = "model.embed_tokens.weight";
    VARVE_ASSIGN_OR_RETURN(model->embedding_, Take(embedding, {c.vocab, c.hidden}));
    model->embedding_transposed_.resize(model->embedding_.size());
    for (uint32_t t = 0; t < c.vocab; ++t) {
      for (uint32_t i = 0; i < c.hidden; ++i) {
        model->embedding_transposed_[size_t{i} * c.vocab + t] =
            model->embedding_[size_t{t} * c.hidden + i];
      }
    }
    VARVE_ASSIGN_OR_RETURN(model->final_norm_, Take("model.norm.weight", {c.hidden}));
    model->layers_.resize(c.layers);
    for (uint32_t l = 0; l < c.layers; ++l) {
      VARVE_RETURN_IF_ERROR(TakeLayer(l, c, &model->layers_[l]));
    }
    if (!tensors_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensors_.begin()->first, " is not part of this architecture"));
    }
    return absl::OkStatus();
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

absl::StatusOr<TinyModel> TinyModel::Load(const std::string& dir, const ModelOptions& options) {
  TinyModel model;
  VARVE_ASSIGN_OR_RETURN(model.config_, ReadModelConfig(dir + "/config.json"));
  const std::string weights = dir + "/model.safetensors";
  VARVE_ASSIGN_OR_RETURN(auto tensors, ReadSafetensors(weights));
  VARVE_RETURN_IF_ERROR(base::Annotate(Loader(std::move(tensors)).Fill(&model), weights));
  model.kernels_ = options.kernels != nullptr ? options.kernels : &BestKernels();
  model.threads_ = std::max(1, options.threads);
  model.FillRopeTable();
  return model;
}

page::RopeParameters RopeOf(const ModelConfig& config) {
  return {.theta = config.rope_theta,
          .rotary_dim = config.head_dim,
          .pairing = page::RopePairing::kRotateHalf,
          .scaling = page::RopeScaling::kNone,
          .arithmetic = {.angles = page::RopeAngles::kF64,
                         .table = page::DType::kF32,
                         .rotation = page::RopeRotation::kF32}};
}

// Angles in double, then rounded: at position 16000 a float angle would be off by 1e-3.
void TinyModel::FillRopeTable() {
  const uint32_t half = config_.head_dim / 2;
  rope_cos_.resize(size_t{config_.max_positions} * half);
  rope_sin_.resize(rope_cos_.size());
  for (uint32_t i = 0; i < half; ++i) {
    const double frequency = std::pow(config_.rope_theta, -2.0 * i / config_.head_dim);
    for (uint32_t position = 0; position < config_.max_positions; ++position) {
      rope_cos_[size_t{position} * half + i] = static_cast<float>(std::cos(position * frequency));
      rope_sin_[size_t{position} * half + i] = static_cast<float>(std::sin(position * frequency));
    }
  }
}

absl::Status TinyModel::Embed(absl::Span<const int32_t> tokens, float* x) const {
  for (size_t t = 0; t < tokens.size(); ++t) {
    if (tokens[t] < 0 || tokens[t] >= static_cast<int64_t>(config_.vocab)) {
      return absl::InvalidArgumentError(absl::StrCat("token ", tokens[t], " at index ", t,
                                                     ", must be in [0, ", config_.vocab, ")"));
    }
    std::memcpy(x + t * config_.hidden, &embedding_[size_t(tokens[t]) * config_.hidden],
                config_.hidden * sizeof(float));
  }
  return absl::OkStatus();
}

void TinyModel::Rms(const float* x, uint32_t tokens, const std::vector<float>& weight,
                    float* y) const {
  const uint32_t n = config_.hidden;
  for (uint32_t t = 0; t < tokens; ++t, x += n, y += n) {
    float squares = 0;
    for (uint32_t i = 0; i < n; ++i) squares += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(squares / static_cast<float>(n) + config_.rms_eps);
    for (uint32_t i = 0; i < n; ++i) y[i] = x[i] * factor * weight[i];
  }
}

void TinyModel::Multiply(const float* x, uint32_t tokens, uint32_t in,
                         const std::vector<float>& weight, uint32_t out, float* y,
                         bool accumulate) const {
  kernels_->gemm({.a = x,
                  .a_stride = in,
                  .b = weight.data(),
                  .b_stride = out,
                  .c = y,
                  .c_stride = out,
                  .rows = tokens,
                  .inner = in,
                  .cols = out,
                  .accumulate = accumulate});
}

void TinyModel::Rope(const float* from, uint32_t heads, uint32_t position, float* to) const {
  const uint32_t half = config_.head_dim / 2;
  const float* cosines = &rope_cos_[size_t{position} * half];
  const float* sines = &rope_sin_[size_t{position} * half];
  for (uint32_t h = 0; h < heads; ++h, from += 2 * half, to += 2 * half) {
    for (uint32_t i = 0; i < half; ++i) {
      const float low = from[i];
      const float high = from[i + half];
      to[i] = low * cosines[i] - high * sines[i];
      to[i + half] = high * cosines[i] + low * sines[i];
    }
  }
}

void TinyModel::QkvTile(const Layer& layer, const float* x, uint32_t tokens,
                        uint32_t first_position, float* q, float* k, float* v) const {
  const uint32_t q_width = config_.QueryWidth();
  const uint32_t kv_width = config_.KvWidth();
  const uint32_t width = q_width + 2 * kv_width;
  std::vector<float> y(size_t{tokens} * config_.hidden);
  std::vector<float> z(size_t{tokens} * width);
  Rms(x, tokens, layer.input_norm, y.data());
  Multiply(y.data(), tokens, config_.hidden, layer.qkv, width, z.data(), false);
  for (uint32_t t = 0; t < tokens; ++t) {
    const float* row = &z[size_t{t} * width];
    Rope(row, config_.query_heads, first_position + t, q + size_t{t} * q_width);
    Rope(row + q_width, config_.kv_heads, first_position + t, k + size_t{t} * kv_width);
    std::memcpy(v + size_t{t} * kv_width, row + q_width + kv_width, kv_width * sizeof(float));
  }
}

void TinyModel::RestTile(const Layer& layer, const float* attention, uint32_t tokens,
                         float* x) const {
  Multiply(attention, tokens, config_.QueryWidth(), layer.output, config_.hidden, x, true);
  std::vector<float> y(size_t{tokens} * config_.hidden);
  std::vector<float> gate(size_t{tokens} * config_.ffn);
  std::vector<float> up(gate.size());
  Rms(x, tokens, layer.post_norm, y.data());
  Multiply(y.data(), tokens, config_.hidden, layer.gate, config_.ffn, gate.data(), false);
  Multiply(y.data(), tokens, config_.hidden, layer.up, config_.ffn, up.data(), false);
  kernels_->silu_mul(gate.data(), up.data(), tokens * config_.ffn);
  Multiply(gate.data(), tokens, config_.ffn, layer.down, config_.hidden, x, true);
}

void TinyModel::LayerQkv(uint32_t layer, const float* x, uint32_t tokens, uint32_t first_position,
                         float* q, float* k, float* v) const {
  ParallelFor(Tiles(tokens), threads_, [&](uint32_t tile) {
    const size_t first = size_t{tile} * kTileTokens;
    QkvTile(layers_[layer], x + first * config_.hidden, TileSize(tile, tokens),
            first_position + static_cast<uint32_t>(first), q + first * config_.QueryWidth(),
            k + first * config_.KvWidth(), v + first * config_.KvWidth());
  });
}

void TinyModel::LayerRest(uint32_t layer, const float* attention, uint32_t tokens, float* x) const {
  ParallelFor(Tiles(tokens), threads_, [&](uint32_t tile) {
    const size_t first = size_t{tile} * kTileTokens;
    RestTile(layers_[layer], attention + first * config_.QueryWidth(), TileSize(tile, tokens),
             x + first * config_.hidden);
  });
}

void TinyModel::Logits(const float* x, uint32_t tokens, float* logits) const {
  ParallelFor(Tiles(tokens), threads_, [&](uint32_t tile) {
    const size_t first = size_t{tile} * kTileTokens;
    const uint32_t count = TileSize(tile, tokens);
    std::vector<float> y(size_t{count} * config_.hidden);
    Rms(x + first * config_.hidden, count, final_norm_, y.data());
    Multiply(y.data(), count, config_.hidden, embedding_transposed_, config_.vocab,
             logits + first * config_.vocab, false);
  });
}

}  // namespace varve::model
