#include "tests/model/sequence.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "tests/model/dense_kv.h"

namespace varve::model {
namespace {

// One prefill in progress: the prompt's KV in dense form and the activations of a chunk.
class Prefiller {
 public:
  Prefiller(const TinyModel& model, absl::Span<KvBackend* const> backends)
      : model_(model),
        backends_(backends),
        layers_(model.config().layers, DenseKv(model.config(), model.kernels())) {}

  // Leaves the chunk's last hidden states in x().
  absl::Status RunChunk(absl::Span<const int32_t> tokens) {
    const ModelConfig& c = model_.config();
    const auto count = static_cast<uint32_t>(tokens.size());
    x_.resize(size_t{count} * c.hidden);
    q_.resize(size_t{count} * c.QueryWidth());
    attention_.resize(q_.size());
    k_.resize(size_t{count} * c.KvWidth());
    v_.resize(k_.size());
    VARVE_RETURN_IF_ERROR(model_.Embed(tokens, x_.data()));
    for (KvBackend* backend : backends_) VARVE_RETURN_IF_ERROR(backend->Extend(tokens));
    for (uint32_t layer = 0; layer < c.layers; ++layer) {
      model_.LayerQkv(layer, x_.data(), count, position_, q_.data(), k_.data(), v_.data());
      for (KvBackend* backend : backends_) {
        VARVE_RETURN_IF_ERROR(backend->Append(layer, k_.data(), v_.data(), count));
      }
      layers_[layer].Append(k_.data(), v_.data(), count);
      layers_[layer].AttendCausal(q_.data(), count, position_, model_.threads(), attention_.data());
      model_.LayerRest(layer, attention_.data(), count, x_.data());
    }
    position_ += count;
    return absl::OkStatus();
  }

  const std::vector<float>& x() const { return x_; }
  uint32_t position() const { return position_; }

 private:
  const TinyModel& model_;
  absl::Span<KvBackend* const> backends_;
  std::vector<DenseKv> layers_;
  uint32_t position_ = 0;
  std::vector<float> x_, q_, k_, v_, attention_;
};

absl::Status CheckPrefill(const ModelConfig& config, size_t tokens, const PrefillOptions& options) {
  if (tokens == 0) return absl::InvalidArgumentError("empty prompt, at least 1 token is needed");
  if (tokens > config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", tokens, " tokens, the model has ",
                                                   config.max_positions, " positions"));
  }
  if (options.chunk_tokens == 0) {
    return absl::InvalidArgumentError("chunk_tokens is 0, must be at least 1");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<float>> Prefill(const TinyModel& model, absl::Span<const int32_t> prompt,
                                           const PrefillOptions& options,
                                           absl::Span<KvBackend* const> backends) {
  const ModelConfig& c = model.config();
  VARVE_RETURN_IF_ERROR(CheckPrefill(c, prompt.size(), options));
  Prefiller prefiller(model, backends);
  std::vector<float> logits;
  for (size_t begin = 0; begin < prompt.size(); begin += options.chunk_tokens) {
    const auto chunk = prompt.subspan(begin, options.chunk_tokens);
    VARVE_RETURN_IF_ERROR(prefiller.RunChunk(chunk));
    const size_t from = std::max<size_t>(begin, options.logits_from);
    if (from >= begin + chunk.size()) continue;
    const size_t count = begin + chunk.size() - from;
    const size_t have = logits.size();
    logits.resize(have + count * c.vocab);
    model.Logits(&prefiller.x()[(from - begin) * c.hidden], static_cast<uint32_t>(count),
                 &logits[have]);
  }
  for (KvBackend* backend : backends) VARVE_RETURN_IF_ERROR(backend->FinishPrefill());
  return logits;
}

Decoder::Decoder(const TinyModel& model, KvBackend& backend, uint32_t position)
    : model_(model),
      backend_(backend),
      position_(position),
      x_(model.config().hidden),
      q_(model.config().QueryWidth()),
      k_(model.config().KvWidth()),
      v_(model.config().KvWidth()),
      attention_(model.config().QueryWidth()),
      logits_(model.config().vocab) {}

absl::StatusOr<absl::Span<const float>> Decoder::Step(int32_t token) {
  const ModelConfig& c = model_.config();
  if (position_ >= c.max_positions) {
    return absl::OutOfRangeError(
        absl::StrCat("position ", position_, ", the model has ", c.max_positions));
  }
  VARVE_RETURN_IF_ERROR(model_.Embed({&token, 1}, x_.data()));
  VARVE_RETURN_IF_ERROR(backend_.Extend({&token, 1}));
  for (uint32_t layer = 0; layer < c.layers; ++layer) {
    model_.LayerQkv(layer, x_.data(), 1, position_, q_.data(), k_.data(), v_.data());
    VARVE_RETURN_IF_ERROR(backend_.Append(layer, k_.data(), v_.data(), 1));
    VARVE_RETURN_IF_ERROR(backend_.Attend(layer, q_.data(), attention_.data()));
    model_.LayerRest(layer, attention_.data(), 1, x_.data());
  }
  model_.Logits(x_.data(), 1, logits_.data());
  ++position_;
  return absl::Span<const float>(logits_);
}

int32_t Argmax(absl::Span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace varve::model
