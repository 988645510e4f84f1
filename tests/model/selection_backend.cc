#include "tests/model/selection_backend.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::model {

SelectionBackend::SelectionBackend(const ModelConfig& config, const Kernels& kernels,
                                   const PolicySpec& spec, Rule rule)
    : DenseBackend(config, kernels), spec_(spec), rule_(rule), digests_(config.layers) {}

absl::StatusOr<std::unique_ptr<KvBackend>> SelectionBackend::Make(const ModelConfig& config,
                                                                  const Kernels& kernels,
                                                                  const PolicySpec& spec) {
  static constexpr std::pair<const char*, Rule> kRules[] = {
      {"full", Rule::kFull},
      {"stream", Rule::kStream},
      {"oracle", Rule::kOracle},
      {"arkvale-max", Rule::kCuboidMax},
      {"arkvale-sum", Rule::kCuboidSum},
      {"arkvale-center", Rule::kCenterMax},
  };
  if (spec.page_tokens == 0) return absl::InvalidArgumentError("page_tokens is 0");
  if (!(spec.budget > 0 && spec.budget <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("budget ", spec.budget, ", must be in (0, 1]"));
  }
  std::string known;
  for (const auto& [name, rule] : kRules) {
    if (spec.name == name) {
      return std::unique_ptr<KvBackend>(new SelectionBackend(config, kernels, spec, rule));
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown policy \"", spec.name, "\", known are: ", known));
}

absl::Status SelectionBackend::FinishPrefill() {
  VARVE_RETURN_IF_ERROR(DenseBackend::FinishPrefill());
  if (!IsPaged()) return absl::OkStatus();
  if (prompt_tokens() % spec_.page_tokens != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt of ", prompt_tokens(), " tokens is not whole pages of ", spec_.page_tokens));
  }
  for (uint32_t l = 0; l < config().layers; ++l) BuildDigests(l);
  return absl::OkStatus();
}

uint32_t SelectionBackend::BudgetOf(uint32_t units) const {
  return static_cast<uint32_t>(std::ceil(spec_.budget * units));
}

void SelectionBackend::BuildDigests(uint32_t layer) {
  const uint32_t dim = config().head_dim;
  std::vector<float>& digests = digests_[layer];
  digests.resize(size_t{config().kv_heads} * Pages() * 2 * dim);
  std::vector<float> key(dim);
  for (uint32_t h = 0; h < config().kv_heads; ++h) {
    for (uint32_t t = 0; t < prompt_tokens(); ++t) {
      this->layer(layer).CopyKey(h, t, key.data());
      float* low = &digests[(size_t{h} * Pages() + t / spec_.page_tokens) * 2 * dim];
      float* high = low + dim;
      const bool first = t % spec_.page_tokens == 0;
      for (uint32_t d = 0; d < dim; ++d) {
        low[d] = first ? key[d] : std::min(low[d], key[d]);
        high[d] = first ? key[d] : std::max(high[d], key[d]);
      }
    }
  }
}

void SelectionBackend::MaskStream(float* scores, size_t stride) const {
  constexpr uint32_t kSinks = 4;
  const uint32_t kept = std::max(BudgetOf(prompt_tokens()), kSinks);
  const uint32_t recent = prompt_tokens() - std::min(prompt_tokens(), kept - kSinks);
  for (uint32_t g = 0; g < config().Group(); ++g) {
    for (uint32_t t = kSinks; t < recent; ++t) scores[g * stride + t] = kMasked;
  }
}

std::vector<float> SelectionBackend::OracleScores(const float* scores, size_t stride) const {
  std::vector<float> pages(Pages());
  std::vector<float> row(prompt_tokens());
  for (uint32_t g = 0; g < config().Group(); ++g) {
    std::copy_n(scores + g * stride, prompt_tokens(), row.begin());
    Softmax(row.data(), prompt_tokens(), prompt_tokens());
    for (uint32_t t = 0; t < prompt_tokens(); ++t) pages[t / spec_.page_tokens] += row[t];
  }
  return pages;
}

std::vector<float> SelectionBackend::DigestScores(uint32_t layer, uint32_t kv_head,
                                                  const float* q) const {
  const uint32_t dim = config().head_dim;
  std::vector<float> pages(Pages());
  for (uint32_t page = 0; page < Pages(); ++page) {
    const float* low = &digests_[layer][(size_t{kv_head} * Pages() + page) * 2 * dim];
    const float* high = low + dim;
    for (uint32_t g = 0; g < config().Group(); ++g) {
      const float* query = q + size_t{g} * dim;
      float score = 0;
      for (uint32_t d = 0; d < dim; ++d) {
        score += rule_ == Rule::kCenterMax ? query[d] * (low[d] + high[d]) * 0.5f
                                           : std::max(query[d] * low[d], query[d] * high[d]);
      }
      if (g == 0) {
        pages[page] = score;
      } else {
        pages[page] =
            rule_ == Rule::kCuboidSum ? pages[page] + score : std::max(pages[page], score);
      }
    }
  }
  return pages;
}

void SelectionBackend::Mask(uint32_t layer, uint32_t kv_head, const float* q, float* scores,
                            size_t stride) {
  if (rule_ == Rule::kFull) return;
  if (rule_ == Rule::kStream) return MaskStream(scores, stride);
  std::vector<float> pages =
      rule_ == Rule::kOracle ? OracleScores(scores, stride) : DigestScores(layer, kv_head, q);
  pages.front() = pages.back() = 1e30f;
  std::vector<uint32_t> order(pages.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return pages[a] > pages[b]; });
  const uint32_t kept = std::min(Pages(), std::max(3u, BudgetOf(Pages())));
  stats().pages_selected += kept;
  for (uint32_t rank = kept; rank < order.size(); ++rank) {
    for (uint32_t g = 0; g < config().Group(); ++g) {
      std::fill_n(scores + g * stride + size_t{order[rank]} * spec_.page_tokens, spec_.page_tokens,
                  kMasked);
    }
  }
}

}  // namespace varve::model
