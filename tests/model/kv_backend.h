// What an engine asks of its KV cache. Implemented by dense memory (the reference) and by the
// service's worker.
//
// Order of calls for one sequence, from one thread:
//   prefill chunk:  Extend(chunk), then Append(layer, ...) once for each layer, in order
//   FinishPrefill() after the last chunk
//   decode token:   Extend({token}), then for each layer in order Append(layer, ..., 1) and
//   Attend(layer, ...)
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace varve::model {

// A KV policy by name with its parameters.
struct PolicySpec {
  std::string name;
  uint32_t page_tokens = 32;
  // Share of the prompt's pages (or tokens) that decode may attend to, in (0, 1].
  double budget = 1.0;
};

// Time spent in one stage of the decode steps.
struct StageTime {
  uint64_t count = 0;
  double seconds = 0;
};

// What a backend counted since it was made; decode only, over all layers and KV heads. Fields a
// backend does not know stay 0. All are sums, so that the stats of many sequences add up.
struct BackendStats {
  uint64_t pages_selected = 0;  // asked for by the policy
  uint64_t pages_hot = 0;       // of those, already in the hot set
  uint64_t pages_recalled = 0;  // brought to the hot set
  uint64_t bytes_recalled = 0;
  uint64_t pages_evicted = 0;
  // Of speculation: pages fetched ahead that were attended to, and that were not; heads that kept
  // the selection of the step before, and that were corrected.
  uint64_t pages_ahead = 0;
  uint64_t pages_wasted = 0;
  uint64_t bytes_wasted = 0;
  uint64_t heads_kept = 0;
  uint64_t heads_corrected = 0;
  // Share of full attention's softmax mass that the attended tokens hold, per query head.
  double mass_kept_sum = 0;
  uint64_t mass_samples = 0;
  // What the backend itself says of it, per KV head: proven at least, and by estimate.
  double mass_bound_sum = 0;
  uint64_t mass_bound_samples = 0;
  double mass_estimate_sum = 0;
  uint64_t mass_estimate_samples = 0;
  std::map<std::string, StageTime> stages;
  // At the end of each prompt, summed: bytes of the KV cache's memory by kind, what they should be
  // by the method's formula where it has one, and tokens x layers.
  std::map<std::string, uint64_t> memory_bytes;
  uint64_t memory_formula_bytes = 0;
  uint64_t memory_tokens = 0;

  void Add(const BackendStats& other);
};

class KvBackend {
 public:
  virtual ~KvBackend() = default;
  // Announces the tokens whose KV comes next (prefill chunk or one decode token).
  virtual absl::Status Extend(absl::Span<const int32_t> tokens) = 0;
  // k, v: [tokens][kv_heads][head_dim] fp32, k post-RoPE; tokens as announced.
  virtual absl::Status Append(uint32_t layer, const float* k, const float* v, uint32_t tokens) = 0;
  virtual absl::Status FinishPrefill() = 0;
  // One decode query: q [query_heads][head_dim] fp32 post-RoPE, not scaled -> out, same shape.
  virtual absl::Status Attend(uint32_t layer, const float* q, float* out) = 0;

  // Per query head, the natural log of the sum of exp(q . k / sqrt(head_dim)) over the tokens that
  // the last Attend attended to; empty when the backend cannot tell.
  virtual absl::Span<const float> LastLogSumExp() const { return {}; }
  virtual BackendStats Stats() const { return {}; }
};

}  // namespace varve::model
