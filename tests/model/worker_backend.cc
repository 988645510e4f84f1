#include "tests/model/worker_backend.h"

#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gpu_worker/low_rank_keys.h"
#include "kvstore/base/status.h"
#include "kvstore/page/dtype.h"
#include "tests/model/selection_backend.h"

namespace varve::model {
namespace {

constexpr std::string_view kOracle = "oracle";

class WorkerBackend final : public KvBackend {
 public:
  WorkerBackend(worker::Worker& worker, worker::Policy policy, worker::SequenceId sequence)
      : worker_(worker),
        policy_(std::move(policy)),
        sequence_(sequence),
        log_sum_exp_(worker.options().geometry.num_query_heads) {}
  // A sequence that is gone already (the worker died) needs no closing.
  ~WorkerBackend() override { (void)worker_.Close(sequence_); }

  absl::Status Extend(absl::Span<const int32_t> tokens) override {
    VARVE_RETURN_IF_ERROR(Flush());
    return worker_.Extend(sequence_, tokens);
  }

  // A decoded token waits for its query and goes with it, in one call.
  absl::Status Append(uint32_t layer, const float* k, const float* v, uint32_t tokens) override {
    VARVE_RETURN_IF_ERROR(Flush());
    Narrow(k, tokens, k_);
    Narrow(v, tokens, v_);
    if (decoding_ && tokens == 1) {
      waiting_layer_ = layer;
      return absl::OkStatus();
    }
    return worker_.Append(sequence_, layer, k_.data(), v_.data(), tokens);
  }

  absl::Status FinishPrefill() override {
    VARVE_RETURN_IF_ERROR(worker_.FinishPrefill(sequence_));
    decoding_ = true;
    return absl::OkStatus();
  }

  absl::Status Attend(uint32_t layer, const float* q, float* out) override {
    worker::AttendItem item{sequence_, q, out, log_sum_exp_.data()};
    if (waiting_layer_ == layer) {
      item.k = k_.data();
      item.v = v_.data();
      waiting_layer_.reset();
    }
    VARVE_RETURN_IF_ERROR(Flush());
    return worker_.Attend(layer, {&item, 1});
  }

  absl::Span<const float> LastLogSumExp() const override { return log_sum_exp_; }

  BackendStats Stats() const override {
    BackendStats stats;
    const auto info = worker_.Info(sequence_);
    if (!info.ok()) return stats;
    const worker::SequenceStats& counted = info->stats;
    stats.pages_selected = counted.selected_pages;
    stats.pages_hot = counted.hot_pages;
    stats.pages_recalled = counted.recalled_pages;
    stats.bytes_recalled = counted.recalled_bytes;
    stats.pages_evicted = counted.evicted_pages;
    stats.pages_ahead = counted.prefetch_used_pages;
    stats.pages_wasted = counted.prefetch_wasted_pages;
    // Of low-rank keys the values alone; the few pages that come whole are counted so too.
    const page::Geometry& geometry = worker_.options().geometry;
    stats.bytes_wasted = counted.prefetch_wasted_pages *
                         (policy_.low_rank() ? geometry.part_bytes() : geometry.page_bytes());
    stats.heads_kept = counted.kept_heads;
    stats.heads_corrected = counted.corrected_heads + counted.late_heads;
    stats.mass_bound_sum = counted.mass_bound_sum;
    stats.mass_bound_samples = counted.mass_bound_samples;
    stats.mass_estimate_sum = counted.mass_estimate_sum;
    stats.mass_estimate_samples = counted.mass_estimate_samples;
    for (const auto& [stage, time] :
         {std::pair{"score", counted.score}, std::pair{"select", counted.select},
          std::pair{"recall", counted.recall}, std::pair{"attend", counted.attend}}) {
      stats.stages[stage] = {counted.steps, absl::ToDoubleSeconds(time)};
    }
    for (const worker::MemoryKind& kind : worker::kMemoryKinds) {
      stats.memory_bytes[kind.name] = info->memory.*kind.bytes;
    }
    stats.memory_tokens = info->tokens * worker_.options().geometry.num_layers;
    if (policy_.low_rank()) stats.memory_formula_bytes = FormulaBytes(*info);
    return stats;
  }

 private:
  uint64_t FormulaBytes(const worker::SequenceInfo& info) const {
    const page::Geometry& g = worker_.options().geometry;
    const uint32_t window = (policy_.sinks + policy_.window + 1) * g.page_tokens;
    return g.num_layers * worker::FormulaBytes(policy_, g, info.budget_pages, window, info.tokens);
  }

  // Appends the token that waits.
  absl::Status Flush() {
    if (!waiting_layer_.has_value()) return absl::OkStatus();
    const uint32_t layer = *waiting_layer_;
    waiting_layer_.reset();
    return worker_.Append(sequence_, layer, k_.data(), v_.data(), 1);
  }

  // [tokens][num_kv_heads][head_dim] in the geometry's dtype.
  void Narrow(const float* from, uint32_t tokens, std::vector<std::byte>& to) const {
    const page::Geometry& g = worker_.options().geometry;
    const size_t elements = size_t{tokens} * g.num_kv_heads * g.head_dim;
    to.resize(elements * page::DTypeBytes(g.dtype));
    if (g.dtype == page::DType::kF32) {
      std::memcpy(to.data(), from, to.size());
      return;
    }
    for (size_t i = 0; i < elements; ++i) page::StoreF32(to.data(), g.dtype, i, from[i]);
  }

  worker::Worker& worker_;
  const worker::Policy policy_;
  const worker::SequenceId sequence_;
  std::vector<float> log_sum_exp_;
  bool decoding_ = false;
  std::optional<uint32_t> waiting_layer_;  // k_ and v_ hold a token of it
  std::vector<std::byte> k_, v_;
};

// "arkvale(hot=3)", 0.1, "merge=max" -> "arkvale(budget=0.1,hot=3,merge=max)".
std::string PolicyText(const PolicySpec& policy, const std::string& extra) {
  if (policy.name == "full") return policy.name;
  const size_t open = policy.name.find('(');
  const std::string own =
      open == std::string::npos ? "" : policy.name.substr(open + 1, policy.name.size() - open - 2);
  const std::string name = policy.name.substr(0, open);
  const bool takes_extra = !extra.empty() && name != "streaming";
  return absl::StrCat(name, "(budget=", policy.budget, own.empty() ? "" : ",", own,
                      takes_extra ? "," : "", takes_extra ? extra : "", ")");
}

}  // namespace

absl::Status CheckPolicies(absl::Span<const PolicySpec> policies,
                           const std::string& extra_parameters) {
  for (const PolicySpec& policy : policies) {
    if (policy.name == kOracle) continue;
    VARVE_RETURN_IF_ERROR(worker::ParsePolicy(PolicyText(policy, extra_parameters)).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<KvBackend>> WorkerProvider::Open(const PolicySpec& policy) {
  if (policy.name == kOracle) {
    return SelectionBackend::Make(model_.config(), model_.kernels(), policy);
  }
  worker::SequenceOptions options;
  VARVE_ASSIGN_OR_RETURN(options.policy,
                         worker::ParsePolicy(PolicyText(policy, extra_parameters_)));
  VARVE_ASSIGN_OR_RETURN(const worker::SequenceId sequence, worker_.Open(options));
  return std::make_unique<WorkerBackend>(worker_, options.policy, sequence);
}

}  // namespace varve::model
