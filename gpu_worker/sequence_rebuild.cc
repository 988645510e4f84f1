// A store that came back: what a sequence finds there, and what it gives it again.
//
// A session with the store ends when the connection breaks, and when the store dies. After either
// the context is looked for by name. Where it is as it was, attaching it is enough. Otherwise the
// store is a new process, which has all, some or nothing of what the old one held: the context is
// taken over as far as its blocks are this sequence's, or opened when it is gone, and is given what
// it lacks. Blocks are named, digests, which the worker has, are sent, and every block that is not
// stored and whose pages are all resident, with the keys that were appended, is saved again. Pages
// of other blocks that are not stored are kept where they are resident and are lost where not: they
// are not selected any more.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gpu_worker/sequence.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

constexpr int kMeetings = 3;           // sessions may come and go while the context is looked for
constexpr uint32_t kRowsAtOnce = 128;  // blocks of digests in one message

}  // namespace

absl::Status Sequence::MeetStore() {
  client::Client* client = services_->client;
  for (int meeting = 0; meeting < kMeetings; ++meeting) {
    const uint64_t session = client->session();
    // Before the store is asked: what it has named and acknowledged by now, it must still have.
    const uint32_t blocks = log_->context_blocks();
    std::vector<uint32_t> digests(layers_.size());
    for (uint32_t l = 0; l < layers_.size(); ++l) digests[l] = log_->digest_blocks(l);
    auto info = client->AttachContext(context_id());
    const bool gone = absl::IsNotFound(info.status());
    if (gone) {
      info = client->OpenContext(context_id(), geometry_, services_->options.digest_kind);
    }
    bool lacks = gone || rebuilding_ || !info.ok() || info->epoch != log_->epoch() ||
                 info->num_blocks < blocks || info->digest_blocks.size() != digests.size();
    for (size_t l = 0; !lacks && l < digests.size(); ++l) {
      lacks = info->digest_blocks[l] < digests[l];
    }
    absl::Status status = info.status();
    if (status.ok() && lacks) status = Rebuild();
    if (status.ok() && !lacks) SendRest();
    if (!status.ok()) {
      return base::Annotate(status, absl::StrCat("sequence ", id_, ", looking for its context ",
                                                 context_id(), " in the store"));
    }
    // The first meeting may have opened the session: whose, only another can tell.
    if (session != 0 && client->session() == session) {
      session_ = session;
      return absl::OkStatus();
    }
  }
  return absl::UnavailableError(absl::StrCat("sequence ", id_, ": the store comes and goes"));
}

// What could not be sent while there was no session.
void Sequence::SendRest() {
  ApplySaves();
  if (log_->error().ok()) return;
  services_->saver->RetryDigests(log_);
  for (uint32_t l = 0; l < layers_.size(); ++l) Resubmit(l);
}

// The context, cut to the blocks that are this sequence's: a store may remember an earlier life of
// the name. What somebody else is attached to is not touched.
absl::StatusOr<client::ContextInfo> Sequence::TakeOver() {
  client::Client* client = services_->client;
  VARVE_ASSIGN_OR_RETURN(const client::ContextInfo info, client->AttachContext(context_id()));
  const auto differ = std::mismatch(info.block_hashes.begin(), info.block_hashes.end(),
                                    hashes_.begin(), hashes_.end());
  const auto common = static_cast<uint32_t>(differ.first - info.block_hashes.begin());
  const bool same_shape = HasShapeOf(info);
  if (same_shape && common == info.num_blocks) return info;
  if (info.attached_sessions > 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("context ", context_id(), " holds other blocks now than this sequence's, and ",
                     "another session is attached to it"));
  }
  base::LogWarning("context ", context_id(), ": of the ", info.num_blocks,
                   " blocks that the store has under this name ", same_shape ? common : 0,
                   " are this sequence's; the others are dropped");
  if (same_shape) return client->TruncateContext(context_id(), common);
  VARVE_RETURN_IF_ERROR(client->DropContext(context_id()));
  return client->OpenContext(context_id(), geometry_, services_->options.digest_kind);
}

absl::Status Sequence::Rebuild() {
  rebuilding_ = true;
  log_->Cancel();
  // What the old log still has under way reads slots that would be submitted again, and may yet
  // name blocks: what the context holds is known only after it.
  VARVE_RETURN_IF_ERROR(log_->WaitIdle(Patience()));
  VARVE_ASSIGN_OR_RETURN(const client::ContextInfo info, TakeOver());
  if (info.digest_blocks.size() != layers_.size()) {
    return absl::DataLossError(
        absl::StrCat("digests of ", info.digest_blocks.size(), " layers, of ", layers_.size()));
  }
  stats_.lost_pages = 0;
  for (uint32_t l = 0; l < layers_.size(); ++l) VARVE_RETURN_IF_ERROR(FindSaved(l));
  auto log =
      std::make_shared<SaveLog>(context_id(), info.epoch, info.num_blocks, info.digest_blocks);
  for (size_t i = info.num_blocks; i < hashes_.size(); ++i) log->AddBlockHash(hashes_[i]);
  log_ = std::move(log);
  for (uint32_t l = 0; l < layers_.size(); ++l) {
    SendDigestsAgain(l);
    Resubmit(l);
  }
  rebuilding_ = false;
  const uint64_t lost = stats_.lost_pages - std::min(lost_counted_, stats_.lost_pages);
  lost_counted_ = stats_.lost_pages;
  services_->metrics->contexts_rebuilt.Increment();
  services_->metrics->pages_lost.Increment(static_cast<double>(lost));
  base::LogWarning("context ", context_id(), ": the store came back with ", info.num_blocks, " of ",
                   hashes_.size(), " blocks; resident pages that it lacks are saved again, ", lost,
                   " pages are nowhere any more and left out from now on");
  return absl::OkStatus();
}

// What the store has of the layer's sealed blocks.
absl::Status Sequence::FindSaved(uint32_t layer_index) {
  LayerCache& layer = layers_[layer_index];
  auto count = static_cast<uint32_t>(layer.blocks.size());
  while (count > 0 && layer.blocks[count - 1] == BlockState::kSealed) --count;
  std::vector<page::ObjectKey> keys;
  for (uint32_t b = 0; b < count; ++b) {
    keys.push_back(*page::MakeObjectKey(hashes_[b], layer_index));
  }
  VARVE_ASSIGN_OR_RETURN(const std::vector<bool> there, services_->client->Exists(keys));
  layer.lost.clear();
  for (uint32_t b = 0; b < count; ++b) {
    if (there[b]) {
      layer.blocks[b] = BlockState::kSaved;
      continue;
    }
    const bool whole = !ExactKeysOf(layer_index, b).empty();
    layer.blocks[b] = whole ? BlockState::kUnsaved : BlockState::kLost;
    if (!whole) MarkGone(layer, b);
  }
  return absl::OkStatus();
}

void Sequence::MarkGone(LayerCache& layer, uint32_t block) {
  layer.lost.resize(layer.heads.size());
  for (uint32_t head = 0; head < layer.heads.size(); ++head) {
    if (layer.heads[head].resident(block)) continue;
    layer.lost[head].resize(layer.blocks.size());
    layer.lost[head][block] = true;
    ++stats_.lost_pages;
  }
}

void Sequence::SendDigestsAgain(uint32_t layer_index) {
  const LayerCache& layer = layers_[layer_index];
  auto end = static_cast<uint32_t>(layer.blocks.size());
  while (end > 0 && layer.blocks[end - 1] == BlockState::kSealed) --end;
  for (uint32_t first = log_->digest_blocks(layer_index); first < end;) {
    // The log's count moves while these are sent.
    const uint32_t count = std::min(kRowsAtOnce, end - first);
    services_->saver->SubmitDigests(log_, layer_index, first, count,
                                    layer.digests.Rows(first, count));
    first += count;
  }
}

}  // namespace varve::worker
