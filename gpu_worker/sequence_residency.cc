// Which pages of a sequence stay resident: what the policy allows, what the pool needs back, what
// the last step used.
#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "client/call_deadline.h"
#include "gpu_worker/sequence.h"
#include "gpu_worker/speculation.h"
#include "kvstore/base/status.h"
#include "kvstore/page/rows.h"

namespace varve::worker {

absl::Status Sequence::SaveAll() {
  VARVE_RETURN_IF_ERROR(log_->WaitIdle(Patience()));
  ApplySaves();
  bool unsaved = !log_->error().ok();
  for (const LayerCache& layer : layers_) {
    unsaved = unsaved || std::count(layer.blocks.begin(), layer.blocks.end(), BlockState::kUnsaved);
  }
  if (!unsaved) return absl::OkStatus();
  services_->saver->RetryDigests(log_);
  for (uint32_t l = 0; l < layers_.size(); ++l) Resubmit(l);
  VARVE_RETURN_IF_ERROR(log_->WaitIdle(Patience()));
  ApplySaves();
  return base::Annotate(log_->error(), "the prompt's pages are not all saved");
}

absl::Status Sequence::FinishPrefill() {
  VARVE_RETURN_IF_ERROR(broken_);
  if (prefilled_) {
    // Whoever did not hear of the first call's end may ask again.
    if (tokens_ == prompt_tokens_) return absl::OkStatus();
    return absl::FailedPreconditionError("FinishPrefill was called before");
  }
  if (tokens_ == 0) return absl::FailedPreconditionError("the prompt is empty: call Extend first");
  for (uint32_t l = 0; l < layers_.size(); ++l) {
    if (layers_[l].appended != tokens_) {
      return absl::FailedPreconditionError(absl::StrCat("layer ", l, " has ", layers_[l].appended,
                                                        " of ", tokens_, " announced tokens"));
    }
  }
  if (policy_.evicts()) {
    if (!KnowsStore()) VARVE_RETURN_IF_ERROR(MeetStore());
    VARVE_RETURN_IF_ERROR(SaveAll());
  }
  prompt_pages_ = static_cast<uint32_t>(tokens_ / geometry_.page_tokens);
  budget_ = policy_.BudgetPages(prompt_pages_);
  VARVE_RETURN_IF_ERROR(FitLowRank());
  // That may have taken a while.
  if (policy_.low_rank() && !KnowsStore()) {
    VARVE_RETURN_IF_ERROR(MeetStore());
    VARVE_RETURN_IF_ERROR(SaveAll());
  }
  prefilled_ = true;
  prompt_tokens_ = tokens_;
  AgeAllKeys();
  ReduceToPolicy();
  return absl::OkStatus();
}

// Nothing has been scored yet: sinks and the most recent pages stay (HotSet ranks unscored pages by
// age).
void Sequence::ReduceToPolicy() {
  if (!policy_.evicts()) return;
  std::vector<uint32_t> keep;
  const bool streaming = policy_.kind == PolicyKind::kStreaming;
  const uint32_t recent = budget_ > policy_.sinks ? budget_ - policy_.sinks : 0;
  page::PinnedPages(prompt_pages_, policy_.sinks, streaming ? recent : std::max(policy_.window, 1u),
                    keep);
  const uint32_t capacity = HotCapacity(prompt_pages_, budget_);
  std::vector<uint32_t> stay;
  for (uint32_t l = 0; l < layers_.size(); ++l) {
    LayerCache& layer = layers_[l];
    for (uint32_t h = 0; h < layer.heads.size(); ++h) {
      HotSet& head = layer.heads[h];
      const std::span<const uint32_t> outliers = Outliers(l, h);
      stay.clear();
      std::set_union(keep.begin(), keep.end(), outliers.begin(), outliers.end(),
                     std::back_inserter(stay));
      head.Surplus(stay, std::span(layer.blocks).first(prompt_pages_), capacity, victims_);
      for (uint32_t page : victims_) {
        const Slot slot = head.Remove(page);
        services_->pool->Free({&slot, 1});
      }
      stats_.evicted_pages += victims_.size();
      services_->metrics->pages_evicted.Increment(static_cast<double>(victims_.size()));
    }
  }
}

absl::Status Sequence::CheckAttend(uint32_t layer, const AttendItem& item) const {
  VARVE_RETURN_IF_ERROR(broken_);
  if (!prefilled_) {
    return absl::FailedPreconditionError(
        absl::StrCat("sequence ", id_, ": call FinishPrefill before Attend"));
  }
  const LayerCache& cache = layers_[layer];
  if ((item.k == nullptr) != (item.v == nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat("sequence ", id_, ": a key without its value, or a value without its key"));
  }
  const size_t q_floats = size_t{geometry_.num_query_heads} * geometry_.head_dim;
  for (size_t i = 0; i < q_floats && !page::AllFinite(item.q, q_floats, page::DType::kF32); ++i) {
    if (std::isfinite(item.q[i])) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "sequence ", id_, ": the query of layer ", layer, ", query head ", i / geometry_.head_dim,
        ", channel ", i % geometry_.head_dim, " is NaN or infinite"));
  }
  const bool brings = BringsToken(cache, item);
  if (brings) VARVE_RETURN_IF_ERROR(CheckAppend(layer, item.k, item.v, 1));
  if (cache.appended + (brings ? 1 : 0) == tokens_) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("sequence ", id_, ": layer ", layer, " has ", cache.appended, " of ", tokens_,
                   " announced tokens", brings ? ", and the item brings one" : ""));
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

page::AdaptiveLimits Sequence::Limits(uint32_t candidates) const {
  const uint32_t budget = std::min(budget_, candidates);
  page::AdaptiveLimits limits{policy_.target, budget, budget};
  if (policy_.adapts()) {
    limits.floor = std::min(policy_.min_pages, budget);
    limits.ceiling = page::CeilingPages(budget, policy_.ceiling, candidates);
  }
  return limits;
}

uint32_t Sequence::HotCapacity(uint32_t candidates, uint32_t selected) const {
  switch (policy_.kind) {
    case PolicyKind::kFull:
    case PolicyKind::kQuest:
      return candidates;
    case PolicyKind::kStreaming:
      return selected;
    case PolicyKind::kArkVale:
    case PolicyKind::kShadowKV:
      break;
  }
  const uint32_t budget = prefilled_ ? budget_ : policy_.BudgetPages(candidates);
  const double wanted = std::ceil(policy_.hot * budget);
  const uint32_t hot = wanted >= candidates ? candidates : static_cast<uint32_t>(wanted);
  return std::min(candidates, std::max(hot, selected));
}

absl::Duration Sequence::Patience() const {
  return client::CallDeadline::Shorten(services_->options.step_deadline);
}

absl::Status Sequence::WaitForSaves(uint32_t needed_pages) {
  if (speculation_ != nullptr && speculation_->GiveBack(Patience())) return absl::OkStatus();
  VARVE_ASSIGN_OR_RETURN(const bool moved, log_->WaitProgress(Patience()));
  ApplySaves();
  // The last saves may have come between the caller's look and the wait.
  if ((moved || !saves_.empty()) && policy_.evicts()) return absl::OkStatus();
  SeekAnswer();
  return PoolExhausted(needed_pages);
}

void Sequence::SeekAnswer() {
  if (!services_->pool->AwaitsAnswer()) return;
  const client::CallDeadline deadline(absl::Now() + Patience());
  const absl::Time asked = services_->pool->Now();
  const absl::Status status = services_->client->AttachContext(context_id()).status();
  if (status.ok() || absl::IsNotFound(status)) services_->pool->NoteAnswer(asked);
}

absl::Status Sequence::WaitForDigests(uint32_t layer, uint32_t blocks) {
  while (log_->digest_blocks(layer) < blocks) {
    VARVE_ASSIGN_OR_RETURN(const bool moved, log_->WaitProgress(Patience()));
    if (moved || log_->digest_blocks(layer) >= blocks) continue;
    return absl::UnavailableError(
        absl::StrCat("the store has digests of ", log_->digest_blocks(layer), " of ", blocks,
                     " blocks of layer ", layer, ": ", log_->error().ToString()));
  }
  return absl::OkStatus();
}

absl::Status Sequence::PoolExhausted(uint32_t needed_pages) const {
  const uint32_t quarantined = services_->pool->quarantined();
  return absl::ResourceExhaustedError(absl::StrCat(
      "sequence ", id_, " needs ", needed_pages, " more pages of the pool, available: ",
      services_->pool->free(), " of ", services_->pool->capacity(), " (policy ", policy_.ToString(),
      log_->error().ok() ? ""
                         : absl::StrCat("; pages that could not be saved stay resident: ",
                                        log_->error().message()),
      quarantined == 0
          ? ""
          : absl::StrCat("; ", quarantined, " rest, because the store may still write into them"),
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

// Pages [sinks, end) may leave during prefill. Streaming drops only what its window has passed for
// good: the window's start never moves back while the prompt grows.
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
      while (layer.next_eviction < end &&
             (!layer.heads[0].resident(layer.next_eviction) ||
              layer.blocks[layer.next_eviction] == BlockState::kLost)) {
        ++layer.next_eviction;
      }
      if (layer.next_eviction >= end || layer.blocks[layer.next_eviction] != BlockState::kSaved) {
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

}  // namespace varve::worker
