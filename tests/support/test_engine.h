// An inference engine in miniature, for tests of the worker: random keys, values and queries, and
// the naive truth that the worker's attention is compared with. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/worker.h"
#include "kvstore/page/geometry.h"

namespace varve::testing {

// Tokens with keys and values of every layer, made from a seed: equal seeds give equal text.
class RandomText {
 public:
  RandomText(const page::Geometry& geometry, uint64_t seed, uint32_t tokens);

  const page::Geometry& geometry() const { return geometry_; }
  absl::Span<const int32_t> Tokens(uint32_t first, uint32_t count) const {
    return absl::MakeConstSpan(tokens_).subspan(first, count);
  }
  // [token][num_kv_heads][head_dim] from token `first` on.
  const std::byte* Keys(uint32_t layer, uint32_t first) const;
  const std::byte* Values(uint32_t layer, uint32_t first) const;
  // [num_query_heads][head_dim]; a fresh one for each (layer, step).
  std::vector<float> Query(uint32_t layer, uint32_t step) const;
  // One head's page, as stored: [K or V][token][head_dim].
  std::string Page(uint32_t layer, uint32_t head, uint32_t page) const;

 private:
  page::Geometry geometry_;
  uint64_t seed_;
  std::vector<int32_t> tokens_;
  std::vector<std::vector<std::byte>> keys_, values_;  // by layer
};

// A sequence that is fed from a text.
class Feeder {
 public:
  Feeder(worker::Worker* worker, const RandomText* text) : worker_(worker), text_(text) {}

  absl::Status Open(const std::string& policy, const std::string& context_id = "",
                    const std::string& resume_context_id = "");
  // The text's next tokens, in appends of at most `chunk` tokens (0: one append).
  absl::Status Feed(uint32_t tokens, uint32_t chunk = 0);
  absl::Status Finish() { return worker_->FinishPrefill(id_); }
  // Open, Feed and Finish.
  absl::Status Prefill(const std::string& policy, uint32_t tokens, uint32_t chunk = 0);
  // Attends every layer with the text's queries of this step; outputs by layer.
  absl::Status Attend(uint32_t step);
  // Announces one more token; the next Step(s) bring it.
  absl::Status Announce();
  // What Step does once the token is announced; may be called again when it failed.
  absl::Status AttendWithToken(uint32_t step);
  // One more token, then Attend; its key and value come with the queries.
  absl::Status Step(uint32_t step);
  // The same by Append and Attend.
  absl::Status StepInTwoCalls(uint32_t step);

  worker::SequenceId id() const { return id_; }
  uint32_t tokens() const { return fed_; }
  void set_tokens(uint32_t tokens) { fed_ = tokens; }
  worker::SequenceInfo Info() const;
  const std::vector<std::vector<float>>& outputs() const { return outputs_; }
  const std::vector<std::vector<float>>& lse() const { return lse_; }

 private:
  absl::Status AttendLayers(uint32_t step, bool with_token);

  worker::Worker* worker_;
  const RandomText* text_;
  worker::SequenceId id_ = 0;
  uint32_t fed_ = 0;
  std::vector<std::vector<float>> outputs_, lse_;
};

// What a policy attends to, computed without the worker: pages by head. prompt_tokens fixes the
// budget. left: pages that the layers of the step before this one have left of an adaptive budget,
// and then this one too; null: none.
std::vector<std::vector<uint32_t>> NaivePages(const RandomText& text, const worker::Policy& policy,
                                              page::DigestKind digest, uint32_t layer,
                                              const std::vector<float>& q, uint32_t prompt_tokens,
                                              uint32_t tokens, uint64_t* left = nullptr);
// Float64 attention over the given pages of each KV head.
struct NaiveResult {
  std::vector<double> out;  // [num_query_heads][head_dim]
  std::vector<double> lse;  // [num_query_heads]
};
NaiveResult NaiveAttention(const RandomText& text, uint32_t layer, const std::vector<float>& q,
                           uint32_t tokens, const std::vector<std::vector<uint32_t>>& pages);

// max |a - b| / max |b|.
double RelativeError(const std::vector<float>& a, const std::vector<double>& b);

}  // namespace varve::testing
