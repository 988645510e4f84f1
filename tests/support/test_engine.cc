#include "tests/support/test_engine.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "kvstore/base/status.h"
#include "kvstore/page/adaptive.h"
#include "kvstore/page/attention.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/select.h"

namespace varve::testing {
namespace {

void Fill(std::mt19937_64& random, page::DType dtype, float scale, size_t count,
          std::vector<std::byte>& out) {
  std::normal_distribution<float> normal(0, scale);
  out.resize(count * page::DTypeBytes(dtype));
  for (size_t i = 0; i < count; ++i) page::StoreF32(out.data(), dtype, i, normal(random));
}

}  // namespace

RandomText::RandomText(const page::Geometry& geometry, uint64_t seed, uint32_t tokens)
    : geometry_(geometry), seed_(seed) {
  std::mt19937_64 random(seed);
  for (uint32_t i = 0; i < tokens; ++i) tokens_.push_back(static_cast<int32_t>(random() % 50000));
  const size_t count = size_t{tokens} * geometry.num_kv_heads * geometry.head_dim;
  keys_.resize(geometry.num_layers);
  values_.resize(geometry.num_layers);
  for (uint32_t l = 0; l < geometry.num_layers; ++l) {
    Fill(random, geometry.dtype, 1.5f, count, keys_[l]);
    Fill(random, geometry.dtype, 1.0f, count, values_[l]);
  }
}

const std::byte* RandomText::Keys(uint32_t layer, uint32_t first) const {
  return keys_[layer].data() + first * geometry_.num_kv_heads * geometry_.row_bytes();
}

const std::byte* RandomText::Values(uint32_t layer, uint32_t first) const {
  return values_[layer].data() + first * geometry_.num_kv_heads * geometry_.row_bytes();
}

std::vector<float> RandomText::Query(uint32_t layer, uint32_t step) const {
  std::mt19937_64 random(seed_ * 1000003 + layer * 7919 + step + 1);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> q(size_t{geometry_.num_query_heads} * geometry_.head_dim);
  for (float& x : q) x = normal(random);
  return q;
}

std::string RandomText::Page(uint32_t layer, uint32_t head, uint32_t page) const {
  const size_t row = geometry_.row_bytes();
  std::string bytes;
  for (const auto* data :
       {Keys(layer, page * geometry_.page_tokens), Values(layer, page * geometry_.page_tokens)}) {
    for (uint32_t t = 0; t < geometry_.page_tokens; ++t) {
      const auto* at = data + (t * geometry_.num_kv_heads + head) * row;
      bytes.append(reinterpret_cast<const char*>(at), row);
    }
  }
  return bytes;
}

absl::Status Feeder::Open(const std::string& policy, const std::string& context_id,
                          const std::string& resume_context_id) {
  VARVE_ASSIGN_OR_RETURN(const worker::Policy parsed, worker::ParsePolicy(policy));
  VARVE_ASSIGN_OR_RETURN(id_, worker_->Open({parsed, context_id, resume_context_id}));
  VARVE_ASSIGN_OR_RETURN(const worker::SequenceInfo info, worker_->Info(id_));
  fed_ = static_cast<uint32_t>(info.tokens);
  return absl::OkStatus();
}

absl::Status Feeder::Feed(uint32_t tokens, uint32_t chunk) {
  const uint32_t end = fed_ + tokens;
  while (fed_ < end) {
    const uint32_t count = chunk == 0 ? end - fed_ : std::min(chunk, end - fed_);
    VARVE_RETURN_IF_ERROR(worker_->Extend(id_, text_->Tokens(fed_, count)));
    for (uint32_t l = 0; l < text_->geometry().num_layers; ++l) {
      VARVE_RETURN_IF_ERROR(
          worker_->Append(id_, l, text_->Keys(l, fed_), text_->Values(l, fed_), count));
    }
    fed_ += count;
  }
  return absl::OkStatus();
}

absl::Status Feeder::Prefill(const std::string& policy, uint32_t tokens, uint32_t chunk) {
  VARVE_RETURN_IF_ERROR(Open(policy));
  VARVE_RETURN_IF_ERROR(Feed(tokens, chunk));
  return Finish();
}

absl::Status Feeder::AttendLayers(uint32_t step, bool with_token) {
  const page::Geometry& g = text_->geometry();
  outputs_.assign(g.num_layers, std::vector<float>(size_t{g.num_query_heads} * g.head_dim));
  lse_.assign(g.num_layers, std::vector<float>(g.num_query_heads));
  for (uint32_t l = 0; l < g.num_layers; ++l) {
    const std::vector<float> q = text_->Query(l, step);
    worker::AttendItem item{id_, q.data(), outputs_[l].data(), lse_[l].data()};
    if (with_token) {
      item.k = text_->Keys(l, fed_ - 1);
      item.v = text_->Values(l, fed_ - 1);
    }
    VARVE_RETURN_IF_ERROR(worker_->Attend(l, {&item, 1}));
  }
  return absl::OkStatus();
}

absl::Status Feeder::Attend(uint32_t step) { return AttendLayers(step, /*with_token=*/false); }

absl::Status Feeder::AttendWithToken(uint32_t step) {
  return AttendLayers(step, /*with_token=*/true);
}

absl::Status Feeder::Announce() {
  VARVE_RETURN_IF_ERROR(worker_->Extend(id_, text_->Tokens(fed_, 1)));
  ++fed_;
  return absl::OkStatus();
}

absl::Status Feeder::Step(uint32_t step) {
  VARVE_RETURN_IF_ERROR(Announce());
  return AttendWithToken(step);
}

absl::Status Feeder::StepInTwoCalls(uint32_t step) {
  VARVE_RETURN_IF_ERROR(Feed(1));
  return Attend(step);
}

worker::SequenceInfo Feeder::Info() const {
  const auto info = worker_->Info(id_);
  return info.ok() ? *info : worker::SequenceInfo{};
}

std::vector<std::vector<uint32_t>> NaivePages(const RandomText& text, const worker::Policy& policy,
                                              page::DigestKind digest, uint32_t layer,
                                              const std::vector<float>& q, uint32_t prompt_tokens,
                                              uint32_t tokens, uint64_t* left) {
  const page::Geometry& g = text.geometry();
  const uint32_t prompt_pages = prompt_tokens / g.page_tokens;
  const uint32_t candidates = policy.generated_pinned ? prompt_pages : tokens / g.page_tokens;
  const uint32_t total = (tokens + g.page_tokens - 1) / g.page_tokens;
  const uint32_t budget = policy.BudgetPages(prompt_pages);
  std::vector<std::vector<uint32_t>> pages(g.num_kv_heads);
  std::vector<page::MassCurve> curves(g.num_kv_heads);
  const page::AdaptiveLimits limits{policy.target, std::min(policy.min_pages, budget),
                                    page::CeilingPages(budget, policy.ceiling, candidates)};
  for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
    std::vector<uint32_t>& list = pages[head];
    if (budget >= candidates || policy.kind == worker::PolicyKind::kFull) {
      list.resize(candidates);
      std::iota(list.begin(), list.end(), 0u);
    } else if (policy.kind == worker::PolicyKind::kStreaming) {
      for (uint32_t page = 0; page < candidates; ++page) {
        if (page < policy.sinks || page + budget >= candidates + policy.sinks) list.push_back(page);
      }
    } else {
      const size_t row = page::DigestBytes(digest, g);
      std::vector<std::byte> rows(row * candidates);
      for (uint32_t page = 0; page < candidates; ++page) {
        const std::string keys = text.Page(layer, head, page);
        page::BuildDigest(digest, keys.data(), g.page_tokens, g.head_dim, g.dtype,
                          rows.data() + page * row);
      }
      std::vector<float> raw(size_t{g.group_size()} * candidates), scores(candidates);
      page::ScorePages({digest, g.dtype, g.head_dim, g.page_tokens, rows.data(), row, candidates},
                       q.data() + size_t{head} * g.group_size() * g.head_dim, g.group_size(),
                       raw.data());
      page::MergeScores(policy.merge, raw.data(), g.group_size(), candidates, g.head_dim,
                        scores.data());
      std::vector<uint32_t> pinned;
      page::PinnedPages(candidates, policy.sinks, policy.window, pinned);
      page::MakeMassCurve(scores, pinned, limits, curves[head]);
      list.resize(std::max<size_t>(budget, pinned.size()));
      page::SelectScratch scratch;
      list.resize(page::SelectPages(scores, pinned, budget, scratch, list));
    }
  }
  if (policy.adapts() && budget < candidates) {
    std::vector<page::MassCurve*> all;
    for (page::MassCurve& curve : curves) all.push_back(&curve);
    const uint64_t own = uint64_t{g.num_kv_heads} * budget;
    const uint64_t fit = own + (left == nullptr ? 0 : *left);
    const uint64_t selected = page::FitTotal(all, fit);
    if (left != nullptr) *left = fit - selected;
    for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
      pages[head] = page::SelectedPages(curves[head]);
    }
  }
  for (std::vector<uint32_t>& list : pages) {
    for (uint32_t page = candidates; page < total; ++page) list.push_back(page);
  }
  return pages;
}

NaiveResult NaiveAttention(const RandomText& text, uint32_t layer, const std::vector<float>& q,
                           uint32_t tokens, const std::vector<std::vector<uint32_t>>& pages) {
  const page::Geometry& g = text.geometry();
  const uint32_t group = g.group_size();
  const double scale = 1.0 / std::sqrt(double{static_cast<double>(g.head_dim)});
  NaiveResult result{std::vector<double>(q.size()), std::vector<double>(g.num_query_heads)};
  for (uint32_t h = 0; h < g.num_query_heads; ++h) {
    const uint32_t kv = h / group;
    std::vector<double> logits;
    std::vector<uint32_t> positions;
    for (uint32_t page : pages[kv]) {
      for (uint32_t t = page * g.page_tokens; t < std::min(tokens, (page + 1) * g.page_tokens);
           ++t) {
        double dot = 0;
        for (uint32_t i = 0; i < g.head_dim; ++i) {
          dot += double{q[h * g.head_dim + i]} *
                 page::LoadAsF32(text.Keys(layer, t), g.dtype, kv * g.head_dim + i);
        }
        logits.push_back(dot * scale);
        positions.push_back(t);
      }
    }
    const double max = *std::max_element(logits.begin(), logits.end());
    double total = 0;
    for (double x : logits) total += std::exp(x - max);
    result.lse[h] = max + std::log(total);
    for (size_t j = 0; j < logits.size(); ++j) {
      const double p = std::exp(logits[j] - max) / total;
      for (uint32_t i = 0; i < g.head_dim; ++i) {
        result.out[h * g.head_dim + i] +=
            p * page::LoadAsF32(text.Values(layer, positions[j]), g.dtype, kv * g.head_dim + i);
      }
    }
  }
  return result;
}

double RelativeError(const std::vector<float>& a, const std::vector<double>& b) {
  double worst = 0;
  double scale = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
    if (!std::isfinite(a[i])) return INFINITY;
  }
  return worst / scale;
}

}  // namespace varve::testing
