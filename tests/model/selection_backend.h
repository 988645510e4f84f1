// Page and window policies by the book on KV in plain memory: the truth that the service's policies
// are compared with, written for clarity. One thread per object.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/model/dense_backend.h"

namespace varve::model {

// Restricts, per layer and KV head, which tokens of the PROMPT decode attends to; KV of decoded
// tokens is always kept and not counted. Names and rules:
//   full            everything
//   stream          first 4 tokens and the most recent, ceil(budget * prompt) tokens in all
//   oracle          pages by true softmax mass of the query, summed over the group
//   arkvale-max     pages by the bound sum_d max(q_d min_d, q_d max_d), maximum over the group
//   arkvale-sum     the same, sum over the group
//   arkvale-center  pages by q . (min + max) / 2, maximum over the group
// Page policies take max(3, ceil(budget * pages)) pages at every step, the first and the last
// always among them; equal scores are taken in order of page id.
class SelectionBackend final : public DenseBackend {
 public:
  // INVALID_ARGUMENT for an unknown name (the message lists the known ones), a page size of 0 or a
  // budget outside (0, 1].
  static absl::StatusOr<std::unique_ptr<KvBackend>> Make(const ModelConfig& config,
                                                         const Kernels& kernels,
                                                         const PolicySpec& spec);

  // INVALID_ARGUMENT when a page policy meets a prompt that is not whole pages.
  absl::Status FinishPrefill() override;

 private:
  enum class Rule { kFull, kStream, kOracle, kCuboidMax, kCuboidSum, kCenterMax };

  SelectionBackend(const ModelConfig& config, const Kernels& kernels, const PolicySpec& spec,
                   Rule rule);

  bool IsPaged() const { return rule_ != Rule::kFull && rule_ != Rule::kStream; }
  uint32_t Pages() const { return prompt_tokens() / spec_.page_tokens; }
  uint32_t BudgetOf(uint32_t units) const;
  void BuildDigests(uint32_t layer);
  void Mask(uint32_t layer, uint32_t kv_head, const float* q, float* scores,
            size_t stride) override;
  void MaskStream(float* scores, size_t stride) const;
  std::vector<float> OracleScores(const float* scores, size_t stride) const;
  std::vector<float> DigestScores(uint32_t layer, uint32_t kv_head, const float* q) const;

  const PolicySpec spec_;
  const Rule rule_;
  // [layer][kv_head][page][low or high][head_dim]
  std::vector<std::vector<float>> digests_;
};

}  // namespace varve::model
