#include "tests/model/dense_backend.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::model {

float Softmax(float* scores, uint32_t tokens, uint32_t padded) {
  const float max = *std::max_element(scores, scores + tokens);
  float sum = 0;
  for (uint32_t t = 0; t < tokens; ++t) {
    scores[t] = std::exp(scores[t] - max);
    sum += scores[t];
  }
  for (uint32_t t = 0; t < tokens; ++t) scores[t] /= sum;
  std::fill(scores + tokens, scores + padded, 0.0f);
  return max + std::log(sum);
}

void BackendStats::Add(const BackendStats& other) {
  pages_selected += other.pages_selected;
  pages_hot += other.pages_hot;
  pages_recalled += other.pages_recalled;
  bytes_recalled += other.bytes_recalled;
  pages_evicted += other.pages_evicted;
  pages_ahead += other.pages_ahead;
  pages_wasted += other.pages_wasted;
  bytes_wasted += other.bytes_wasted;
  heads_kept += other.heads_kept;
  heads_corrected += other.heads_corrected;
  mass_kept_sum += other.mass_kept_sum;
  mass_samples += other.mass_samples;
  mass_bound_sum += other.mass_bound_sum;
  mass_bound_samples += other.mass_bound_samples;
  mass_estimate_sum += other.mass_estimate_sum;
  mass_estimate_samples += other.mass_estimate_samples;
  for (const auto& [name, time] : other.stages) {
    stages[name].count += time.count;
    stages[name].seconds += time.seconds;
  }
  for (const auto& [kind, bytes] : other.memory_bytes) memory_bytes[kind] += bytes;
  memory_formula_bytes += other.memory_formula_bytes;
  memory_tokens += other.memory_tokens;
}

DenseBackend::DenseBackend(const ModelConfig& config, const Kernels& kernels)
    : config_(config),
      layers_(config.layers, DenseKv(config, kernels)),
      log_sum_exp_(config.query_heads) {}

absl::Status DenseBackend::Extend(absl::Span<const int32_t> tokens) {
  for (uint32_t l = 0; l < config_.layers; ++l) {
    if (layers_[l].tokens() != announced_) {
      return absl::FailedPreconditionError(absl::StrCat("Extend: layer ", l, " has ",
                                                        layers_[l].tokens(), " tokens of ",
                                                        announced_, " announced before"));
    }
  }
  announced_ += static_cast<uint32_t>(tokens.size());
  return absl::OkStatus();
}

absl::Status DenseBackend::Append(uint32_t layer, const float* k, const float* v, uint32_t tokens) {
  if (layer >= config_.layers || layers_[layer].tokens() + tokens != announced_) {
    return absl::FailedPreconditionError(
        absl::StrCat("Append: ", tokens, " tokens to layer ", layer, " of ", config_.layers,
                     " do not complete the ", announced_, " announced"));
  }
  layers_[layer].Append(k, v, tokens);
  return absl::OkStatus();
}

absl::Status DenseBackend::FinishPrefill() {
  if (prompt_tokens_ != 0 || announced_ == 0) {
    return absl::FailedPreconditionError("FinishPrefill: must come once, after the prompt");
  }
  prompt_tokens_ = announced_;
  return absl::OkStatus();
}

absl::Status DenseBackend::Attend(uint32_t layer, const float* q, float* out) {
  if (layer >= config_.layers || prompt_tokens_ == 0 || layers_[layer].tokens() != announced_) {
    return absl::FailedPreconditionError(absl::StrCat(
        "Attend: layer ", layer, " must hold the current token and the prefill be finished"));
  }
  const DenseKv& kv = layers_[layer];
  const uint32_t group = config_.Group();
  const uint32_t stride = kv.PaddedTokens();
  scores_.resize(size_t{group} * stride);
  for (uint32_t h = 0; h < config_.kv_heads; ++h) {
    const size_t offset = size_t{h} * group * config_.head_dim;
    kv.Scores(h, q + offset, scores_.data());
    Mask(layer, h, q + offset, scores_.data(), stride);
    for (uint32_t g = 0; g < group; ++g) {
      log_sum_exp_[h * group + g] = Softmax(&scores_[size_t{g} * stride], kv.tokens(), stride);
    }
    kv.WeightedValues(h, scores_.data(), out + offset);
  }
  return absl::OkStatus();
}

std::vector<float> DenseBackend::PageMass(uint32_t layer, const float* q,
                                          uint32_t page_tokens) const {
  const DenseKv& kv = layers_[layer];
  const uint32_t group = config_.Group();
  const uint32_t stride = kv.PaddedTokens();
  const uint32_t pages = (kv.tokens() + page_tokens - 1) / page_tokens;
  std::vector<float> mass(size_t{config_.query_heads} * pages);
  std::vector<float> scores(size_t{group} * stride);
  for (uint32_t h = 0; h < config_.query_heads; ++h) {
    if (h % group == 0) kv.Scores(h / group, q + size_t{h} * config_.head_dim, scores.data());
    float* row = &scores[size_t{h % group} * stride];
    Softmax(row, kv.tokens(), stride);
    for (uint32_t t = 0; t < kv.tokens(); ++t) mass[size_t{h} * pages + t / page_tokens] += row[t];
  }
  return mass;
}

MassProbe::MassProbe(const ModelConfig& config, const Kernels& kernels,
                     std::unique_ptr<KvBackend> inner, uint32_t every)
    : inner_(std::move(inner)),
      dense_(config, kernels),
      every_(every),
      discarded_(config.QueryWidth()) {}

absl::Status MassProbe::Extend(absl::Span<const int32_t> tokens) {
  VARVE_RETURN_IF_ERROR(dense_.Extend(tokens));
  return inner_->Extend(tokens);
}

absl::Status MassProbe::Append(uint32_t layer, const float* k, const float* v, uint32_t tokens) {
  VARVE_RETURN_IF_ERROR(dense_.Append(layer, k, v, tokens));
  return inner_->Append(layer, k, v, tokens);
}

absl::Status MassProbe::FinishPrefill() {
  VARVE_RETURN_IF_ERROR(dense_.FinishPrefill());
  return inner_->FinishPrefill();
}

absl::Status MassProbe::Attend(uint32_t layer, const float* q, float* out) {
  VARVE_RETURN_IF_ERROR(inner_->Attend(layer, q, out));
  const absl::Span<const float> kept = inner_->LastLogSumExp();
  if (kept.empty() || attends_++ % every_ != 0) return absl::OkStatus();
  VARVE_RETURN_IF_ERROR(dense_.Attend(layer, q, discarded_.data()));
  const absl::Span<const float> full = dense_.LastLogSumExp();
  for (size_t h = 0; h < full.size(); ++h) {
    sampled_.mass_kept_sum += std::exp(static_cast<double>(kept[h]) - full[h]);
    ++sampled_.mass_samples;
  }
  return absl::OkStatus();
}

BackendStats MassProbe::Stats() const {
  BackendStats stats = inner_->Stats();
  stats.Add(sampled_);
  return stats;
}

}  // namespace varve::model
