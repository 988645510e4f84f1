#include "gpu_worker/sequence.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/status.h"
#include "kvstore/page/checksum.h"
#include "kvstore/page/rows.h"

namespace varve::worker {
namespace {

constexpr absl::Duration kFirstRetryPause = absl::Seconds(1);
constexpr absl::Duration kLastRetryPause = absl::Seconds(30);
constexpr size_t kBlocksPerRetry = 128;

}  // namespace

absl::Status Sequence::Extend(absl::Span<const int32_t> tokens) {
  VARVE_RETURN_IF_ERROR(broken_);
  if (tokens_ + tokens.size() > UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("a sequence holds at most ", UINT32_MAX, " tokens"));
  }
  for (int32_t token : tokens) {
    tail_.push_back(token);
    if (tail_.size() < geometry_.page_tokens) continue;
    const std::string parent =
        hashes_.empty()
            ? base::Sha256(absl::StrCat(services_->options.key_namespace, "\n", geometry_.Id()))
            : hashes_.back();
    hashes_.push_back(base::ChainBlockHash(parent, tail_));
    log_->AddBlockHash(hashes_.back());
    tail_.clear();
  }
  tokens_ += tokens.size();
  return absl::OkStatus();
}

absl::Status Sequence::CheckAppend(uint32_t layer, const void* k, const void* v,
                                   uint32_t tokens) const {
  if (layer >= layers_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer is ", layer, ", allowed: 0..", layers_.size() - 1));
  }
  const uint64_t announced = tokens_ - layers_[layer].appended;
  if (tokens > announced) {
    return absl::FailedPreconditionError(absl::StrCat(
        "append of ", tokens, " tokens to layer ", layer, ", but only ", announced, " of ", tokens_,
        " announced tokens are still without keys: call Extend first"));
  }
  if (tokens > 0 && (k == nullptr || v == nullptr)) {
    return absl::InvalidArgumentError("keys or values are null");
  }
  const size_t row = size_t{geometry_.num_kv_heads} * geometry_.head_dim;
  for (const auto& [name, data] : {std::pair{"key", k}, std::pair{"value", v}}) {
    if (page::AllFinite(data, tokens * row, geometry_.dtype)) continue;
    for (size_t i = 0; i < tokens * row; ++i) {
      if (std::isfinite(page::LoadAsF32(data, geometry_.dtype, i))) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("the ", name, " of token ", layers_[layer].appended + i / row, ", layer ",
                       layer, ", KV head ", i % row / geometry_.head_dim, ", channel ",
                       i % geometry_.head_dim, " is NaN or infinite"));
    }
  }
  return absl::OkStatus();
}

absl::Status Sequence::Append(uint32_t layer_index, const void* k, const void* v, uint32_t tokens) {
  VARVE_RETURN_IF_ERROR(broken_);
  VARVE_RETURN_IF_ERROR(CheckAppend(layer_index, k, v, tokens));
  // Without it the tokens are taken all the same: only saving needs the store.
  if (StoreChanged()) MeetStore().IgnoreError();
  ApplySaves();
  RetrySaves();
  LayerCache& layer = layers_[layer_index];
  const uint32_t p = geometry_.page_tokens;
  const uint32_t new_pages = (layer.appended + tokens + p - 1) / p - (layer.appended + p - 1) / p;
  const uint32_t needed = new_pages * geometry_.num_kv_heads;
  if (!policy_.evicts() && needed > services_->pool->free()) {
    SeekAnswer();
    return PoolExhausted(needed);
  }

  const size_t token_bytes = geometry_.num_kv_heads * geometry_.row_bytes();
  const auto* keys = static_cast<const std::byte*>(k);
  const auto* values = static_cast<const std::byte*>(v);
  absl::Status status;
  for (uint32_t done = 0; done < tokens;) {
    const uint32_t row = layer.appended % p;
    if (row == 0) status = OpenPage(layer);
    if (!status.ok()) {
      // Nothing was taken yet: the caller may try again when other sequences are closed.
      if (done > 0) broken_ = status;
      break;
    }
    layer.has_attended = false;
    const uint32_t count = std::min(p - row, tokens - done);
    WriteTokens(layer, keys + done * token_bytes, values + done * token_bytes, count);
    done += count;
    if (layer.appended % p == 0) SealPage(layer_index);
  }
  SubmitSealed(layer_index);
  return status;
}

absl::Status Sequence::AppendStep(uint32_t layer, const AttendItem& item) {
  LayerCache& cache = layers_[layer];
  if (!BringsToken(cache, item)) return absl::OkStatus();
  VARVE_RETURN_IF_ERROR(Append(layer, item.k, item.v, 1));
  cache.step_end = cache.appended;
  cache.step_crc = TokenCrc(item);
  return absl::OkStatus();
}

uint32_t Sequence::TokenCrc(const AttendItem& item) const {
  const size_t bytes = geometry_.num_kv_heads * geometry_.row_bytes();
  return page::Crc32c(item.v, bytes, page::Crc32c(item.k, bytes));
}

// False without a token, and for one that an earlier attempt of the same step brought.
bool Sequence::BringsToken(const LayerCache& layer, const AttendItem& item) const {
  if (item.k == nullptr) return false;
  const bool complete = layer.appended == tokens_ && layer.step_end == layer.appended;
  return !complete || layer.step_crc != TokenCrc(item);
}

absl::Status Sequence::OpenPage(LayerCache& layer) {
  while (!services_->pool->Allocate(page_slots_)) {
    for (uint32_t l = 0; l < layers_.size(); ++l) SubmitSealed(l);
    ApplySaves();
    if (Spare(static_cast<uint32_t>(page_slots_.size()))) continue;
    VARVE_RETURN_IF_ERROR(WaitForSaves(static_cast<uint32_t>(page_slots_.size())));
  }
  const uint32_t page = layer.appended / geometry_.page_tokens;
  for (uint32_t head = 0; head < page_slots_.size(); ++head) {
    layer.heads[head].Insert(page, page_slots_[head]);
  }
  return absl::OkStatus();
}

void Sequence::WriteTokens(LayerCache& layer, const std::byte* k, const std::byte* v,
                           uint32_t count) {
  const uint32_t page = layer.appended / geometry_.page_tokens;
  const uint32_t row = layer.appended % geometry_.page_tokens;
  const size_t row_bytes = geometry_.row_bytes();
  const size_t stride = geometry_.num_kv_heads * row_bytes;
  for (uint32_t head = 0; head < geometry_.num_kv_heads; ++head) {
    const Slot slot = layer.heads[head].slot(page);
    services_->pool->WriteRows(slot, page::Part::kK, row, count, k + head * row_bytes, stride);
    services_->pool->WriteRows(slot, page::Part::kV, row, count, v + head * row_bytes, stride);
    layer.digests.Append(head, services_->pool->Data(slot) + row * row_bytes, count);
  }
  layer.appended += count;
}

void Sequence::SealPage(uint32_t layer_index) {
  LayerCache& layer = layers_[layer_index];
  const uint32_t page = layer.appended / geometry_.page_tokens - 1;
  for (uint32_t head = 0; head < geometry_.num_kv_heads; ++head) {
    layer.digests.Seal(head, services_->pool->Data(layer.heads[head].slot(page)));
  }
  layer.digests.Advance();
  layer.blocks.push_back(BlockState::kSealed);
  AddSealed(layer_index, page);
}

// Sealed blocks are at the end of the list, so the job is a run of consecutive new blocks.
void Sequence::SubmitSealed(uint32_t layer_index) {
  LayerCache& layer = layers_[layer_index];
  auto first = static_cast<uint32_t>(layer.blocks.size());
  while (first > 0 && layer.blocks[first - 1] == BlockState::kSealed) --first;
  const auto count = static_cast<uint32_t>(layer.blocks.size()) - first;
  if (count == 0) return;
  SaveJob job{.log = log_,
              .layer = layer_index,
              .prompt_tokens = static_cast<uint32_t>(tokens_),
              .sealed = absl::Now()};
  for (uint32_t block = first; block < layer.blocks.size(); ++block) {
    job.blocks.push_back(block);
    job.hashes.push_back(hashes_[block]);
    job.parents.push_back(block > 0 ? hashes_[block - 1] : std::string());
    for (const HotSet& head : layer.heads) job.slots.push_back(head.slot(block));
    layer.blocks[block] = BlockState::kSaving;
  }
  job.digest_rows = layer.digests.Rows(first, count);
  services_->saver->Submit(std::move(job));
}

size_t Sequence::Resubmit(uint32_t layer_index, size_t most) {
  LayerCache& layer = layers_[layer_index];
  SaveJob job{.log = log_,
              .layer = layer_index,
              .prompt_tokens = static_cast<uint32_t>(tokens_),
              .sealed = absl::Now()};
  for (uint32_t block = 0; block < layer.blocks.size() && job.blocks.size() < most; ++block) {
    if (layer.blocks[block] != BlockState::kUnsaved) continue;
    job.blocks.push_back(block);
    job.hashes.push_back(hashes_[block]);
    job.parents.push_back(block > 0 ? hashes_[block - 1] : std::string());
    for (const HotSet& head : layer.heads) job.slots.push_back(head.slot(block));
    layer.blocks[block] = BlockState::kSaving;
  }
  const size_t count = job.blocks.size();
  if (count > 0) services_->saver->Submit(std::move(job));
  return count;
}

void Sequence::ApplySaves() {
  saves_.clear();
  log_->Take(saves_);
  for (const SaveResult& save : saves_) {
    layers_[save.layer].blocks[save.block] = save.saved ? BlockState::kSaved : BlockState::kUnsaved;
    if (save.saved) ++stats_.saved_objects;
    unsaved_ = unsaved_ || !save.saved;
  }
}

// A few blocks at a time, so that a store that still refuses is not sent all of them again; at once
// after a round that was taken, with growing pauses after others.
void Sequence::RetrySaves() {
  const bool failed = !log_->error().ok();
  if (!failed && !unsaved_ && retry_pause_ == absl::ZeroDuration()) return;
  if (!log_->idle()) return;
  const absl::Time now = absl::Now();
  if (!failed) {
    retry_pause_ = absl::ZeroDuration();
  } else if (retry_pause_ == absl::ZeroDuration()) {
    retry_pause_ = kFirstRetryPause;
    retry_at_ = now + retry_pause_;
    return;
  } else {
    if (now < retry_at_) return;
    retry_pause_ = std::min(2 * retry_pause_, kLastRetryPause);
    retry_at_ = now + retry_pause_;
    services_->saver->RetryDigests(log_);  // clears the error
  }
  size_t left = kBlocksPerRetry;
  for (uint32_t l = 0; l < layers_.size() && left > 0; ++l) left -= Resubmit(l, left);
  unsaved_ = left == 0;
}

void Sequence::Publish() {
  uint32_t blocks = UINT32_MAX;
  for (const LayerCache& layer : layers_) {
    blocks = std::min(blocks, layer.appended / geometry_.page_tokens);
  }
  CountMemory();
  base::MutexLock lock(info_mutex_);
  info_.id = id_;
  info_.context_id = log_->context_id();
  info_.tokens = tokens_;
  info_.blocks = blocks;
  info_.budget_pages = budget_;
  info_.stats = stats_;
  info_.memory = memory_;
  info_.discarded_energy.clear();
  for (const auto& keys : low_rank_) {
    if (!prefilled_ || !keys->fitted()) continue;  // of all layers or of none
    info_.discarded_energy.push_back(1 - keys->subspace().kept_share());
  }
}

SequenceInfo Sequence::Info() const {
  base::MutexLock lock(info_mutex_);
  return info_;
}

// ---- SequenceUse

SequenceUse::SequenceUse(std::shared_ptr<Sequence> sequence) : sequence_(std::move(sequence)) {
  if (!sequence_->busy_.exchange(true, std::memory_order_acquire)) held_.reset(sequence_.get());
}

void SequenceUse::Release::operator()(Sequence* sequence) const {
  sequence->Publish();
  sequence->busy_.store(false, std::memory_order_release);
}

SequenceUse::~SequenceUse() = default;

absl::Status SequenceUse::status() const {
  if (held_ != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("another call for sequence ", sequence_->id(), " is running"));
}

}  // namespace varve::worker
