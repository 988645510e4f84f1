// Exact attention over KV in plain memory, and a probe that measures how much of its mass another
// backend kept. One thread per object.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tests/model/dense_kv.h"
#include "tests/model/kv_backend.h"

namespace varve::model {

// Turns scores[0, tokens) into softmax weights and zeroes scores[tokens, padded); returns the log
// of the sum of the exponentials. REQUIRES: 1 <= tokens <= padded.
float Softmax(float* scores, uint32_t tokens, uint32_t padded);

// Full attention over everything appended. FAILED_PRECONDITION when the calls come in the wrong
// order.
class DenseBackend : public KvBackend {
 public:
  DenseBackend(const ModelConfig& config, const Kernels& kernels);

  absl::Status Extend(absl::Span<const int32_t> tokens) final;
  absl::Status Append(uint32_t layer, const float* k, const float* v, uint32_t tokens) final;
  absl::Status FinishPrefill() override;
  absl::Status Attend(uint32_t layer, const float* q, float* out) final;
  absl::Span<const float> LastLogSumExp() const final { return log_sum_exp_; }
  BackendStats Stats() const final { return stats_; }

  // True attention mass per page for a query: [query_heads][pages], each row sums to 1. Pages cover
  // all tokens so far, the last one may be partial.
  std::vector<float> PageMass(uint32_t layer, const float* q, uint32_t page_tokens) const;

 protected:
  // A score no softmax can see.
  static constexpr float kMasked = -1e30f;

  // Called once per KV head of an Attend: may set scores [Group()][stride] of tokens to kMasked.
  virtual void Mask(uint32_t /*layer*/, uint32_t /*kv_head*/, const float* /*q*/, float* /*scores*/,
                    size_t /*stride*/) {}

  const ModelConfig& config() const { return config_; }
  const DenseKv& layer(uint32_t index) const { return layers_[index]; }
  uint32_t prompt_tokens() const { return prompt_tokens_; }
  BackendStats& stats() { return stats_; }

 private:
  const ModelConfig config_;
  std::vector<DenseKv> layers_;
  std::vector<float> scores_, log_sum_exp_;
  uint32_t announced_ = 0;      // tokens that every layer must have after the current Extend
  uint32_t prompt_tokens_ = 0;  // 0 until FinishPrefill
  BackendStats stats_;
};

// Passes everything to another backend and, at every `every`-th Attend, compares its log-sum-exp
// with full attention: exp(theirs - full) is the share of the attention mass that the attended
// tokens hold. Keeps a dense copy of the KV.
class MassProbe final : public KvBackend {
 public:
  // every: at least 1.
  MassProbe(const ModelConfig& config, const Kernels& kernels, std::unique_ptr<KvBackend> inner,
            uint32_t every);

  absl::Status Extend(absl::Span<const int32_t> tokens) override;
  absl::Status Append(uint32_t layer, const float* k, const float* v, uint32_t tokens) override;
  absl::Status FinishPrefill() override;
  absl::Status Attend(uint32_t layer, const float* q, float* out) override;
  absl::Span<const float> LastLogSumExp() const override { return inner_->LastLogSumExp(); }
  BackendStats Stats() const override;

 private:
  const std::unique_ptr<KvBackend> inner_;
  DenseBackend dense_;
  const uint32_t every_;
  uint64_t attends_ = 0;
  std::vector<float> discarded_;
  BackendStats sampled_;
};

}  // namespace varve::model
