// Runs one sequence through the model: prefill with the engine's own dense attention, then decode
// with the attention of a KvBackend. One thread per sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tests/model/kv_backend.h"
#include "tests/model/tiny_model.h"

namespace varve::model {

struct PrefillOptions {
  uint32_t chunk_tokens = 2048;  // at least 1; the result does not depend on it
  uint32_t logits_from = 0;  // logits are wanted from this position on; prompt size or above: none
};

// Runs the prompt from position 0 and hands its KV, chunk by chunk, to each of the backends, which
// then have the same prompt and may decode on their own. Returns the logits [prompt size -
// logits_from][vocab]. INVALID_ARGUMENT: empty prompt, chunk of 0, more tokens than the model has
// positions, a token outside the vocabulary; else the first error of a backend.
absl::StatusOr<std::vector<float>> Prefill(const TinyModel& model, absl::Span<const int32_t> prompt,
                                           const PrefillOptions& options,
                                           absl::Span<KvBackend* const> backends);

// Decode steps of one sequence, not to be continued after an error. The model and the backend must
// outlive it.
class Decoder {
 public:
  // position: that of the next token, i.e. the number of tokens already run.
  Decoder(const TinyModel& model, KvBackend& backend, uint32_t position);

  // Runs one token; the logits [vocab] stay valid until the next call. OUT_OF_RANGE past the
  // model's positions.
  absl::StatusOr<absl::Span<const float>> Step(int32_t token);

  uint32_t position() const { return position_; }

 private:
  const TinyModel& model_;
  KvBackend& backend_;
  uint32_t position_;
  std::vector<float> x_, q_, k_, v_, attention_, logits_;
};

// The token with the highest logit, the lowest id among equals.
int32_t Argmax(absl::Span<const float> logits);

}  // namespace varve::model
