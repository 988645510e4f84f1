#include "gpu_worker/sequence.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/status.h"
#include "kvstore/page/rows.h"

namespace varve::worker {

Sequence::Sequence(const Services* services, SequenceId id, const SequenceOptions& options)
    : services_(services),
      geometry_(services->options.geometry),
      id_(id),
      policy_(options.policy),
      layers_(geometry_.num_layers, LayerCache(services->options.digest_kind, geometry_)),
      page_slots_(geometry_.num_kv_heads) {}

absl::StatusOr<std::shared_ptr<Sequence>> Sequence::Open(const Services* services, SequenceId id,
                                                         const SequenceOptions& options) {
  // The text form has one validator; a hand-made policy goes through it too.
  VARVE_RETURN_IF_ERROR(ParsePolicy(options.policy.ToString()).status());
  std::shared_ptr<Sequence> sequence(new Sequence(services, id, options));
  VARVE_RETURN_IF_ERROR(sequence->OpenContext(options));
  sequence->Publish();
  return sequence;
}

absl::Status Sequence::OpenContext(const SequenceOptions& options) {
  std::string context_id = options.context_id;
  if (context_id.empty()) {
    const std::string random = base::RandomBytes(8);
    context_id = absl::StrCat("w-", absl::BytesToHexString(random), "-", id_);
    drop_on_close_ = true;
  }
  if (!options.resume_context_id.empty()) return Resume(options, context_id);
  VARVE_ASSIGN_OR_RETURN(
      const client::ContextInfo info,
      services_->client->OpenContext(context_id, geometry_, services_->options.digest_kind));
  log_ = std::make_shared<SaveLog>(context_id, info.epoch, geometry_.num_layers, 0);
  return absl::OkStatus();
}

// The stored context is continued in place when it is named as the sequence's own, else in a fork.
absl::Status Sequence::Resume(const SequenceOptions& options, const std::string& context_id) {
  client::Client* client = services_->client;
  if (context_id != options.resume_context_id) {
    VARVE_RETURN_IF_ERROR(client->ForkContext(options.resume_context_id, context_id, 0).status());
  }
  VARVE_ASSIGN_OR_RETURN(const client::ContextInfo info, client->AttachContext(context_id));
  log_ = std::make_shared<SaveLog>(context_id, info.epoch, geometry_.num_layers, info.num_blocks);
  absl::Status loaded = LoadBlocks(info);
  if (!loaded.ok() && drop_on_close_) client->DropContext(context_id).IgnoreError();
  return base::Annotate(loaded, absl::StrCat("resuming context ", options.resume_context_id));
}

absl::Status Sequence::LoadBlocks(const client::ContextInfo& info) {
  page::Geometry theirs = info.geometry;
  theirs.num_query_heads = geometry_.num_query_heads;
  if (!(theirs == geometry_) || info.digest_kind != services_->options.digest_kind) {
    return absl::FailedPreconditionError(absl::StrCat(
        "it has geometry ", info.geometry.ToString(), " and digest ",
        base::Sv(page::Info(info.digest_kind).name), ", this worker ", geometry_.ToString(),
        " and ", base::Sv(page::Info(services_->options.digest_kind).name)));
  }
  for (uint32_t l = 0; l < info.digest_blocks.size(); ++l) {
    if (info.digest_blocks[l] != info.num_blocks) {
      return absl::FailedPreconditionError(
          absl::StrCat("layer ", l, " has digests of ", info.digest_blocks[l], " of ",
                       info.num_blocks, " blocks"));
    }
  }
  hashes_ = info.block_hashes;
  if (hashes_.size() != info.num_blocks) {
    return absl::DataLossError(
        absl::StrCat(hashes_.size(), " block names for ", info.num_blocks, " blocks"));
  }
  tokens_ = uint64_t{info.num_blocks} * geometry_.page_tokens;
  if (info.num_blocks == 0) return absl::OkStatus();
  VARVE_RETURN_IF_ERROR(services_->client->ReadDigests(
      log_->context_id(), 0, geometry_.num_layers,
      [this](uint32_t layer, uint32_t first, uint32_t count, std::string_view rows) {
        if (layer >= layers_.size()) {
          return absl::DataLossError(absl::StrCat("digests of unknown layer ", layer));
        }
        return layers_[layer].digests.Load(first, count, rows);
      }));
  for (LayerCache& layer : layers_) {
    if (layer.digests.pages() != info.num_blocks) {
      return absl::DataLossError(absl::StrCat("digests of ", layer.digests.pages(), " of ",
                                              info.num_blocks, " blocks arrived"));
    }
    layer.appended = static_cast<uint32_t>(tokens_);
    layer.blocks.assign(info.num_blocks, BlockState::kSaved);
  }
  return absl::OkStatus();
}

absl::Status Sequence::Extend(absl::Span<const int32_t> tokens) {
  VARVE_RETURN_IF_ERROR(broken_);
  if (tokens_ + tokens.size() > UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("a sequence holds at most ", UINT32_MAX, " tokens"));
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
      return absl::InvalidArgumentError(absl::StrCat(
          "the ", name, " of token ", layers_[layer].appended + i / row, ", layer ", layer,
          ", KV head ", i % row / geometry_.head_dim, ", channel ", i % geometry_.head_dim,
          " is NaN or infinite"));
    }
  }
  return absl::OkStatus();
}

absl::Status Sequence::Append(uint32_t layer_index, const void* k, const void* v, uint32_t tokens) {
  VARVE_RETURN_IF_ERROR(broken_);
  VARVE_RETURN_IF_ERROR(CheckAppend(layer_index, k, v, tokens));
  ApplySaves();
  LayerCache& layer = layers_[layer_index];
  const uint32_t p = geometry_.page_tokens;
  const uint32_t new_pages = (layer.appended + tokens + p - 1) / p - (layer.appended + p - 1) / p;
  const uint32_t needed = new_pages * geometry_.num_kv_heads;
  if (!policy_.evicts() && needed > services_->pool->free()) return PoolExhausted(needed);

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
    if (layer.appended % p == 0) SealPage(layer);
  }
  SubmitSealed(layer_index);
  return status;
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

void Sequence::SealPage(LayerCache& layer) {
  const uint32_t page = layer.appended / geometry_.page_tokens - 1;
  for (uint32_t head = 0; head < geometry_.num_kv_heads; ++head) {
    layer.digests.Seal(head, services_->pool->Data(layer.heads[head].slot(page)));
  }
  layer.digests.Advance();
  layer.blocks.push_back(BlockState::kSealed);
}

// Sealed blocks are at the end of the list, so the job is a run of consecutive new blocks.
void Sequence::SubmitSealed(uint32_t layer_index) {
  LayerCache& layer = layers_[layer_index];
  auto first = static_cast<uint32_t>(layer.blocks.size());
  while (first > 0 && layer.blocks[first - 1] == BlockState::kSealed) --first;
  const auto count = static_cast<uint32_t>(layer.blocks.size()) - first;
  if (count == 0) return;
  SaveJob job{.log = log_, .layer = layer_index, .sealed = absl::Now()};
  for (uint32_t block = first; block < layer.blocks.size(); ++block) {
    job.blocks.push_back(block);
    job.hashes.push_back(hashes_[block]);
    for (const HotSet& head : layer.heads) job.slots.push_back(head.slot(block));
    layer.blocks[block] = BlockState::kSaving;
  }
  job.digest_rows = layer.digests.Rows(first, count);
  services_->saver->Submit(std::move(job));
}

void Sequence::Resubmit(uint32_t layer_index) {
  LayerCache& layer = layers_[layer_index];
  SaveJob job{.log = log_, .layer = layer_index, .sealed = absl::Now()};
  for (uint32_t block = 0; block < layer.blocks.size(); ++block) {
    if (layer.blocks[block] != BlockState::kUnsaved) continue;
    job.blocks.push_back(block);
    job.hashes.push_back(hashes_[block]);
    for (const HotSet& head : layer.heads) job.slots.push_back(head.slot(block));
    layer.blocks[block] = BlockState::kSaving;
  }
  if (!job.blocks.empty()) services_->saver->Submit(std::move(job));
}

void Sequence::ApplySaves() {
  saves_.clear();
  log_->Take(saves_);
  for (const SaveResult& save : saves_) {
    layers_[save.layer].blocks[save.block] = save.saved ? BlockState::kSaved : BlockState::kUnsaved;
    if (save.saved) ++stats_.saved_objects;
  }
}

absl::Status Sequence::SaveAll() {
  const absl::Duration patience = services_->options.step_deadline;
  VARVE_RETURN_IF_ERROR(log_->WaitIdle(patience));
  ApplySaves();
  bool unsaved = !log_->error().ok();
  for (const LayerCache& layer : layers_) {
    unsaved = unsaved || std::count(layer.blocks.begin(), layer.blocks.end(), BlockState::kUnsaved);
  }
  if (!unsaved) return absl::OkStatus();
  services_->saver->RetryDigests(log_);
  for (uint32_t l = 0; l < layers_.size(); ++l) Resubmit(l);
  VARVE_RETURN_IF_ERROR(log_->WaitIdle(patience));
  ApplySaves();
  return base::Annotate(log_->error(), "the prompt's pages are not all saved");
}

absl::Status Sequence::FinishPrefill() {
  VARVE_RETURN_IF_ERROR(broken_);
  if (prefilled_) return absl::FailedPreconditionError("FinishPrefill was called before");
  if (tokens_ == 0) return absl::FailedPreconditionError("the prompt is empty: call Extend first");
  for (uint32_t l = 0; l < layers_.size(); ++l) {
    if (layers_[l].appended != tokens_) {
      return absl::FailedPreconditionError(absl::StrCat(
          "layer ", l, " has ", layers_[l].appended, " of ", tokens_, " announced tokens"));
    }
  }
  if (policy_.evicts()) VARVE_RETURN_IF_ERROR(SaveAll());
  prompt_pages_ = static_cast<uint32_t>(tokens_ / geometry_.page_tokens);
  budget_ = policy_.BudgetPages(prompt_pages_);
  prefilled_ = true;
  ReduceToPolicy();
  return absl::OkStatus();
}

// Nothing has been scored yet: sinks and the most recent pages stay (HotSet ranks unscored pages by age).
void Sequence::ReduceToPolicy() {
  if (!policy_.evicts()) return;
  std::vector<uint32_t> keep;
  const bool streaming = policy_.kind == PolicyKind::kStreaming;
  const uint32_t recent = budget_ > policy_.sinks ? budget_ - policy_.sinks : 0;
  page::PinnedPages(prompt_pages_, policy_.sinks,
                    streaming ? recent : std::max(policy_.window, 1u), keep);
  const uint32_t capacity = HotCapacity(prompt_pages_, budget_);
  for (LayerCache& layer : layers_) {
    for (HotSet& head : layer.heads) {
      head.Surplus(keep, std::span(layer.blocks).first(prompt_pages_), capacity, victims_);
      for (uint32_t page : victims_) {
        const Slot slot = head.Remove(page);
        services_->pool->Free({&slot, 1});
      }
      stats_.evicted_pages += victims_.size();
      services_->metrics->pages_evicted.Increment(static_cast<double>(victims_.size()));
    }
  }
}

absl::Status Sequence::CheckAttend(uint32_t layer) const {
  VARVE_RETURN_IF_ERROR(broken_);
  if (!prefilled_) {
    return absl::FailedPreconditionError(
        absl::StrCat("sequence ", id_, ": call FinishPrefill before Attend"));
  }
  if (layers_[layer].appended != tokens_) {
    return absl::FailedPreconditionError(absl::StrCat("sequence ", id_, ": layer ", layer, " has ",
                                                      layers_[layer].appended, " of ", tokens_,
                                                      " announced tokens"));
  }
  return absl::OkStatus();
}

uint32_t Sequence::CandidatePages(uint32_t layer) const {
  if (policy_.generated_pinned) return prompt_pages_;
  return layers_[layer].appended / geometry_.page_tokens;
}

uint32_t Sequence::TotalPages(uint32_t layer) const {
  return (layers_[layer].appended + geometry_.page_tokens - 1) / geometry_.page_tokens;
}

uint32_t Sequence::PageTokens(uint32_t layer, uint32_t page) const {
  const uint32_t begin = page * geometry_.page_tokens;
  return std::min(geometry_.page_tokens, layers_[layer].appended - begin);
}

uint32_t Sequence::HotCapacity(uint32_t candidates, uint32_t selected) const {
  switch (policy_.kind) {
    case PolicyKind::kFull:
    case PolicyKind::kQuest: return candidates;
    case PolicyKind::kStreaming: return selected;
    case PolicyKind::kArkVale: break;
  }
  const double wanted = std::ceil(policy_.hot * budget_);
  const uint32_t hot = wanted >= candidates ? candidates : static_cast<uint32_t>(wanted);
  return std::min(candidates, std::max(hot, selected));
}

absl::Status Sequence::WaitForSaves(uint32_t needed_pages) {
  VARVE_ASSIGN_OR_RETURN(const bool moved, log_->WaitProgress(services_->options.step_deadline));
  ApplySaves();
  return moved && policy_.evicts() ? absl::OkStatus() : PoolExhausted(needed_pages);
}

absl::Status Sequence::WaitForDigests(uint32_t layer, uint32_t blocks) {
  while (log_->digest_blocks(layer) < blocks) {
    VARVE_ASSIGN_OR_RETURN(const bool moved, log_->WaitProgress(services_->options.step_deadline));
    if (moved || log_->digest_blocks(layer) >= blocks) continue;
    return absl::UnavailableError(
        absl::StrCat("the store has digests of ", log_->digest_blocks(layer), " of ", blocks,
                     " blocks of layer ", layer, ": ", log_->error().ToString()));
  }
  return absl::OkStatus();
}

absl::Status Sequence::PoolExhausted(uint32_t needed_pages) const {
  return absl::ResourceExhaustedError(absl::StrCat(
      "sequence ", id_, " needs ", needed_pages, " more pages of the pool, available: ",
      services_->pool->free(), " of ", services_->pool->capacity(), " (policy ", policy_.ToString(),
      log_->error().ok() ? "" : absl::StrCat("; pages that could not be saved stay resident: ",
                                             log_->error().message()),
      ")"));
}

uint32_t Sequence::EvictPage(LayerCache& layer, uint32_t page) {
  uint32_t freed = 0;
  for (HotSet& head : layer.heads) {
    if (!head.resident(page)) continue;
    const Slot slot = head.Remove(page);
    services_->pool->Free({&slot, 1});
    ++freed;
  }
  stats_.evicted_pages += freed;
  services_->metrics->pages_evicted.Increment(freed);
  return freed;
}

// Pages [sinks, end) may leave during prefill. Streaming drops only what its window has passed for good: the window's
// start never moves back while the prompt grows.
uint32_t Sequence::SpareEnd(const LayerCache& layer) const {
  const auto sealed = static_cast<uint32_t>(layer.blocks.size());
  if (policy_.kind != PolicyKind::kStreaming) return sealed;
  const uint32_t budget = std::max(policy_.BudgetPages(sealed), policy_.sinks);
  return sealed - std::min(sealed, budget - policy_.sinks);
}

bool Sequence::SparePrefill(uint32_t needed) {
  uint32_t freed = 0;
  while (freed < needed) {
    LayerCache* oldest = nullptr;
    for (LayerCache& layer : layers_) {
      layer.next_eviction = std::max(layer.next_eviction, policy_.sinks);
      const uint32_t end = SpareEnd(layer);
      while (layer.next_eviction < end && !layer.heads[0].resident(layer.next_eviction)) {
        ++layer.next_eviction;
      }
      if (layer.next_eviction >= end ||
          layer.blocks[layer.next_eviction] != BlockState::kSaved) {
        continue;
      }
      if (oldest == nullptr || layer.next_eviction < oldest->next_eviction) oldest = &layer;
    }
    if (oldest == nullptr) return freed > 0;
    freed += EvictPage(*oldest, oldest->next_eviction++);
  }
  return true;
}

bool Sequence::Spare(uint32_t needed) {
  if (!policy_.evicts()) return false;
  if (!prefilled_) return SparePrefill(needed);
  // Hot sets shrink towards the budget, which the next query needs at least.
  uint32_t freed = 0;
  for (uint32_t l = 0; l < layers_.size() && freed < needed; ++l) {
    LayerCache& layer = layers_[l];
    const std::span<const BlockState> states = std::span(layer.blocks).first(CandidatePages(l));
    for (uint32_t h = 0; h < layer.heads.size(); ++h) {
      layer.heads[h].Surplus(layer.attended[h], states, budget_, victims_);
      for (uint32_t page : victims_) {
        const Slot slot = layer.heads[h].Remove(page);
        services_->pool->Free({&slot, 1});
      }
      freed += static_cast<uint32_t>(victims_.size());
    }
  }
  stats_.evicted_pages += freed;
  services_->metrics->pages_evicted.Increment(freed);
  return freed > 0;
}

absl::Status Sequence::ExportPages(uint32_t layer_index, PageTable& table) const {
  const LayerCache& layer = layers_[layer_index];
  const auto not_attended = [&] {
    return absl::FailedPreconditionError(absl::StrCat(
        "sequence ", id_, ": no Attend has succeeded in layer ", layer_index, " since it changed"));
  };
  if (!layer.has_attended) return not_attended();
  const uint32_t total = TotalPages(layer_index);
  for (uint32_t h = 0; h < layer.heads.size(); ++h) {
    uint32_t last = 0;
    const auto add = [&](uint32_t page) {
      last = page;
      table.indices.push_back(static_cast<int32_t>(layer.heads[h].slot(page)));
      return layer.heads[h].resident(page);
    };
    bool resident = true;
    for (uint32_t page : layer.attended[h]) resident = add(page) && resident;
    for (uint32_t page = CandidatePages(layer_index); page < total; ++page) {
      resident = add(page) && resident;
    }
    if (!resident) return not_attended();
    table.indptr.push_back(static_cast<int32_t>(table.indices.size()));
    table.last_page_len.push_back(static_cast<int32_t>(PageTokens(layer_index, last)));
  }
  return absl::OkStatus();
}

absl::Status Sequence::Close() {
  if (drop_on_close_) log_->Cancel();
  absl::Status status = log_->WaitIdle(services_->options.step_deadline);
  std::vector<Slot> slots;
  for (LayerCache& layer : layers_) {
    for (HotSet& head : layer.heads) {
      while (!head.pages().empty()) slots.push_back(head.Remove(head.pages().back()));
    }
  }
  services_->saver->FreeWhenIdle(log_, std::move(slots));
  if (drop_on_close_) {
    services_->client->DropContext(log_->context_id()).IgnoreError();
    return absl::OkStatus();
  }
  status.Update(log_->error());
  status.Update(services_->client->ParkContext(log_->context_id()).status());
  return base::Annotate(status, absl::StrCat("closing context ", log_->context_id()));
}

void Sequence::Publish() {
  uint32_t blocks = UINT32_MAX;
  for (const LayerCache& layer : layers_) {
    blocks = std::min(blocks, layer.appended / geometry_.page_tokens);
  }
  base::MutexLock lock(info_mutex_);
  info_.id = id_;
  info_.context_id = log_->context_id();
  info_.tokens = tokens_;
  info_.blocks = blocks;
  info_.budget_pages = budget_;
  info_.stats = stats_;
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
