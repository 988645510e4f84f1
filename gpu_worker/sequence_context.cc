// A sequence's beginning and end: its context in the store.
#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/call_deadline.h"
#include "gpu_worker/sequence.h"
#include "gpu_worker/speculation.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

// That have digests in every layer.
uint32_t CompleteBlocks(const client::ContextInfo& info) {
  uint32_t blocks = info.num_blocks;
  for (const uint32_t digests : info.digest_blocks) blocks = std::min(blocks, digests);
  return blocks;
}

}  // namespace

Sequence::Sequence(const Services* services, SequenceId id, const SequenceOptions& options)
    : services_(services),
      geometry_(services->options.geometry),
      id_(id),
      policy_(options.policy),
      layers_(geometry_.num_layers, LayerCache(services->options.digest_kind, geometry_)),
      page_slots_(geometry_.num_kv_heads) {
  if (policy_.tau.has_value()) MaySpeculate();
  for (uint32_t l = 0; policy_.low_rank() && l < geometry_.num_layers; ++l) {
    low_rank_.push_back(std::make_unique<LowRankKeys>(geometry_, policy_, services->rope.get()));
  }
}

void Sequence::MaySpeculate() {
  if (speculation_ != nullptr) return;
  speculation_ = std::make_unique<Speculation>(services_, this, policy_.tau.value_or(kNeverKeep));
}

Sequence::~Sequence() = default;

absl::StatusOr<std::shared_ptr<Sequence>> Sequence::Open(const Services* services, SequenceId id,
                                                         const SequenceOptions& options) {
  // The text form has one validator; a hand-made policy goes through it too.
  VARVE_RETURN_IF_ERROR(ParsePolicy(options.policy.ToString()).status());
  VARVE_RETURN_IF_ERROR(CheckLowRank(options.policy, services->options.geometry));
  if (options.policy.rerank == page::Rerank::kSketch &&
      !page::HasSketch(services->options.digest_kind)) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy ", options.policy.ToString(), " re-ranks by sketches, which digests ",
                     base::Sv(page::Info(services->options.digest_kind).name),
                     " have not: allowed with ", base::Sv(page::SketchKindNames())));
  }
  if (options.policy.rerank == page::Rerank::kExact &&
      services->options.recall_path != RecallPath::kStore) {
    return absl::InvalidArgumentError(
        absl::StrCat("policy ", options.policy.ToString(),
                     " re-ranks by keys, which the store has: allowed with recall_path store"));
  }
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
  name_ = services_->options.contexts->Take(context_id);
  if (!name_.taken()) {
    const std::string why = absl::StrCat("another sequence works on context ", context_id);
    if (options.resume_context_id.empty()) return absl::AlreadyExistsError(why);
    return absl::FailedPreconditionError(
        absl::StrCat(why, "; resume it under another context_id, which makes a fork"));
  }
  session_ = services_->client->session();
  if (!options.resume_context_id.empty()) return Resume(options, context_id);
  VARVE_ASSIGN_OR_RETURN(
      const client::ContextInfo info,
      services_->client->OpenContext(context_id, geometry_, services_->options.digest_kind));
  log_ = std::make_shared<SaveLog>(context_id, info.epoch, geometry_.num_layers, 0);
  return absl::OkStatus();
}

// The stored context is continued in place when it is named as the sequence's own, else in a fork.
// A failure leaves no fork and no attachment behind, as far as the store can be told in time.
absl::Status Sequence::Resume(const SequenceOptions& options, const std::string& context_id) {
  client::Client* client = services_->client;
  const bool fork = context_id != options.resume_context_id;
  if (fork) {
    VARVE_RETURN_IF_ERROR(client->ForkContext(options.resume_context_id, context_id, 0).status());
  }
  const absl::Status loaded = LoadContext(context_id);
  if (loaded.ok()) return loaded;
  const client::CallDeadline deadline(absl::Now() + Patience());
  const absl::Status undone =
      fork ? client->DropContext(context_id) : client->ParkContext(context_id).status();
  undone.IgnoreError();
  return base::Annotate(loaded, absl::StrCat("resuming context ", options.resume_context_id));
}

absl::Status Sequence::LoadContext(const std::string& context_id) {
  client::Client* client = services_->client;
  VARVE_ASSIGN_OR_RETURN(client::ContextInfo info, client->AttachContext(context_id));
  const std::vector<client::HotPages> hot = std::move(info.hot);
  // Blocks whose digests a crash has lost, or whose worker never sent them: nobody can use them.
  // Unless somebody is about to send them.
  const uint32_t complete = CompleteBlocks(info);
  if (HasShapeOf(info) && complete < info.num_blocks && info.attached_sessions <= 1) {
    std::vector<std::string> hashes = std::move(info.block_hashes);
    VARVE_ASSIGN_OR_RETURN(info, client->TruncateContext(context_id, complete));
    hashes.resize(std::min<size_t>(hashes.size(), complete));
    info.block_hashes = std::move(hashes);
  }
  log_ = std::make_shared<SaveLog>(context_id, info.epoch, geometry_.num_layers, info.num_blocks);
  VARVE_RETURN_IF_ERROR(LoadBlocks(info));
  if (policy_.recalls() && !hot.empty()) {
    MaySpeculate();
    speculation_->Resume(hot);
  }
  return absl::OkStatus();
}

bool Sequence::HasShapeOf(const client::ContextInfo& info) const {
  return page::MayContinue(geometry_, info.geometry) &&
         info.digest_kind == services_->options.digest_kind;
}

absl::Status Sequence::LoadBlocks(const client::ContextInfo& info) {
  if (!HasShapeOf(info)) {
    page::Geometry otherwise = info.geometry;
    otherwise.rope.reset();
    if (page::MayContinue(geometry_, otherwise) &&
        info.digest_kind == services_->options.digest_kind) {
      return absl::FailedPreconditionError(
          absl::StrCat("its keys have the RoPE parameters ", info.geometry.rope->ToString(),
                       ", this worker's ", geometry_.rope->ToString()));
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "it has geometry ", info.geometry.ToString(), " and digest ",
        base::Sv(page::Info(info.digest_kind).name), ", this worker ", geometry_.ToString(),
        " and ", base::Sv(page::Info(services_->options.digest_kind).name)));
  }
  for (uint32_t l = 0; l < info.digest_blocks.size(); ++l) {
    if (info.digest_blocks[l] != info.num_blocks) {
      return absl::FailedPreconditionError(absl::StrCat("layer ", l, " has digests of ",
                                                        info.digest_blocks[l], " of ",
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
      log_->context_id(), log_->epoch(), 0, geometry_.num_layers,
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

// Of each layer and KV head as many as the policy keeps resident: what the last step attended to
// (of generated pages, which all steps attend to, the youngest), then the residents that score
// best. Saved pages only, as the store has those.
std::vector<client::HotPages> Sequence::HotPages() {
  std::vector<client::HotPages> hot;
  if (!policy_.recalls() || stats_.steps == 0) return hot;
  for (uint32_t l = 0; l < layers_.size(); ++l) {
    LayerCache& layer = layers_[l];
    const auto sealed = static_cast<uint32_t>(layer.blocks.size());
    const uint32_t candidates = std::min(CandidatePages(l), sealed);
    const auto unsaved = [&](uint32_t page) { return layer.blocks[page] != BlockState::kSaved; };
    for (uint32_t h = 0; h < layer.heads.size(); ++h) {
      const std::vector<uint32_t>& chosen = layer.attended[h];
      const auto selected = static_cast<uint32_t>(chosen.size());
      const uint32_t capacity = HotCapacity(sealed, selected);
      client::HotPages entry{.layer = l, .kv_head = h, .attended = chosen, .others = {}};
      const uint32_t generated = std::min(sealed - candidates, capacity - selected);
      for (uint32_t page = sealed - generated; page < sealed; ++page) {
        entry.attended.push_back(page);
      }
      layer.heads[h].Surplus(chosen, std::span(layer.blocks).first(candidates),
                             capacity - generated, victims_);
      std::sort(victims_.begin(), victims_.end());
      for (const uint32_t page : layer.heads[h].PagesBelow(candidates)) {
        const auto is_in = [page](const std::vector<uint32_t>& pages) {
          return std::binary_search(pages.begin(), pages.end(), page);
        };
        if (!is_in(chosen) && !is_in(victims_)) entry.others.push_back(page);
      }
      std::erase_if(entry.attended, unsaved);
      std::erase_if(entry.others, unsaved);
      hot.push_back(std::move(entry));
    }
  }
  return hot;
}

absl::Status Sequence::Close() {
  const ContextsInUse::Name name = std::move(name_);
  closed_ = true;
  broken_ = absl::FailedPreconditionError(absl::StrCat("sequence ", id_, " is closed"));
  if (speculation_ != nullptr) speculation_->Abandon();
  if (drop_on_close_) log_->Cancel();
  absl::Status status = log_->WaitIdle(Patience());
  std::vector<client::HotPages> hot;
  if (!drop_on_close_) {
    ApplySaves();
    hot = HotPages();
  }
  std::vector<Slot> slots;
  for (LayerCache& layer : layers_) {
    for (HotSet& head : layer.heads) {
      while (!head.pages().empty()) slots.push_back(head.Remove(head.pages().back()));
      services_->metrics->prefetch_wasted.Increment(head.TakeWasted());
    }
  }
  services_->saver->FreeWhenIdle(log_, std::move(slots));
  if (drop_on_close_) {
    services_->client->DropContext(log_->context_id()).IgnoreError();
    return absl::OkStatus();
  }
  status.Update(log_->error());
  absl::Status parked = services_->client->ParkContext(log_->context_id(), hot).status();
  // The context may have lost blocks meanwhile, to somebody else or with the store.
  if (absl::IsInvalidArgument(parked)) {
    parked = services_->client->ParkContext(log_->context_id()).status();
  }
  status.Update(parked);
  return base::Annotate(status, absl::StrCat("closing context ", log_->context_id()));
}

}  // namespace varve::worker
