#include "kvstore/server/recall_service.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/page/object_key.h"
#include "kvstore/server/convert.h"
#include "kvstore/server/get_batch.h"
#include "kvstore/server/recall_request.h"
#include "kvstore/server/transfer.h"

namespace varve::server {
namespace {

using varve::v1::RecallReply;
using varve::v1::RecallRequest;

uint32_t Micros(absl::Duration duration) {
  return static_cast<uint32_t>(absl::ToInt64Microseconds(duration));
}

// The missing objects of one layer, pinned when first asked for.
class LayerObjects {
 public:
  LayerObjects(Core& core, store::NamespaceId ns, const page::ObjectLayout& layout,
               const recall::LayerSelection& selection)
      : core_(core),
        ns_(ns),
        layout_(layout),
        selection_(selection),
        objects_(selection.wanted_pages.size()) {}

  // The page's object with `range` checked when it is in memory, or null and why.
  const store::GetHandle* Find(uint32_t page, const page::ObjectRange& range,
                               store::MissReason* reason) {
    const auto& pages = selection_.wanted_pages;
    const size_t i = std::lower_bound(pages.begin(), pages.end(), page) - pages.begin();
    Object& object = objects_[i];
    if (!object.asked) Acquire(i, object);
    if (object.handle != nullptr && object.handle->loaded() &&
        core_.config.host_tier().verify_reads() && !object.handle->Verify(range).ok()) {
      // What travels already was checked range by range; the object is gone for the rest.
      Miss(object, store::MissReason::kCorrupt);
    }
    *reason = object.reason;
    return object.handle.get();
  }

  // The page's object for a reader of its own. REQUIRES: Find found it. Null: it is gone meanwhile.
  std::unique_ptr<store::GetHandle> Another(uint32_t page) {
    const auto& pages = selection_.wanted_pages;
    const size_t i = std::lower_bound(pages.begin(), pages.end(), page) - pages.begin();
    const auto key = page::MakeObjectKey(selection_.block_hashes[i], selection_.layer);
    return core_.pages.AcquireAgain(ns_, *key);
  }

  // Hands the pins over to the transfer; answers how many objects are in it.
  size_t Release(std::vector<std::unique_ptr<store::GetHandle>>& out) {
    size_t good = 0;
    for (Object& object : objects_) {
      if (object.spoiled != nullptr) out.push_back(std::move(object.spoiled));
      if (object.handle == nullptr) continue;
      if (object.handle->loaded()) ++good;  // those on disk are counted when they are there
      out.push_back(std::move(object.handle));
    }
    return good;
  }

 private:
  struct Object {
    bool asked = false;
    std::unique_ptr<store::GetHandle> handle;
    std::unique_ptr<store::GetHandle> spoiled;  // corrupt in part; other parts may be in segments
    store::MissReason reason = store::MissReason::kNeverStored;
  };

  void Acquire(size_t i, Object& object) {
    object.asked = true;
    const auto key = page::MakeObjectKey(selection_.block_hashes[i], selection_.layer);
    if (!key.has_value()) return Miss(object, store::MissReason::kNeverStored);
    store::Miss miss;
    object.handle = core_.pages.Acquire(ns_, *key, &miss);
    if (object.handle == nullptr) return Miss(object, miss.reason);
    if (object.handle->meta().layout != layout_ || object.handle->meta().codec != "raw") {
      Miss(object, store::MissReason::kIncompatible);
    }
  }

  void Miss(Object& object, store::MissReason reason) {
    object.spoiled = std::move(object.handle);
    object.reason = reason;
    core_.metrics.CountMiss(reason);
  }

  Core& core_;
  const store::NamespaceId ns_;
  const page::ObjectLayout layout_;
  const recall::LayerSelection& selection_;
  std::vector<Object> objects_;  // parallel to wanted_pages
};

class RecallOp : public std::enable_shared_from_this<RecallOp> {
 public:
  RecallOp(Core& core, absl::Time arrived, CheckedRecall checked, RecallReply* reply, Answer answer)
      : core_(core),
        start_(arrived),
        checked_(std::move(checked)),
        reply_(reply),
        answer_(std::move(answer)) {
    const page::Geometry& g = checked_.context.geometry;
    layout_ = {g.num_kv_heads, static_cast<uint32_t>(g.part_bytes())};
  }

  // On a recall thread. Answers what the layers have left of their totals.
  uint64_t Run(const std::string& context_id) {
    recall::SelectTimings timings;
    absl::StatusOr<std::vector<recall::LayerSelection>> selections = core_.contexts.Select(
        checked_.session->ns(), context_id, checked_.params, checked_.layers, &timings);
    if (!selections.ok()) {
      std::move(answer_)(selections.status());
      return 0;
    }
    const uint64_t left = selections->back().left_pages;
    score_ = absl::Seconds(timings.score_seconds);
    select_ = absl::Seconds(timings.select_seconds);
    rerank_ = absl::Seconds(timings.rerank_seconds);
    CountReranked(timings);
    const absl::Time located = absl::Now();
    for (size_t i = 0; i < selections->size(); ++i) Locate((*selections)[i], checked_.targets[i]);
    transfer_start_ = absl::Now();
    locate_ = transfer_start_ - located;
    for (size_t i = 0; i < disk_pages_.size(); ++i) Load(i);
    if (segments_.empty()) {
      EndPart();
      return left;
    }
    Send(std::move(segments_), [self = shared_from_this()](const absl::Status& status) {
      self->Deliver(status);
      self->EndPart();
    });
    return left;
  }

 private:
  void Send(std::vector<transport::Segment> segments, transport::Done done) {
    if (checked_.prefetch) {
      StartPatientTransfer(core_, checked_.session, std::move(segments), checked_.deadline,
                           std::move(done));
    } else {
      StartTransfer(core_, Direction::kToClient, checked_.session, std::move(segments),
                    checked_.deadline, std::move(done));
    }
  }

  void CountReranked(const recall::SelectTimings& timings) const {
    if (checked_.params.rerank == page::Rerank::kNone) return;
    core_.metrics.recall_rerank_seconds->Observe(timings.rerank_seconds);
    core_.metrics.recall_reranked_exact->Increment(static_cast<double>(timings.reranked_pages));
    core_.metrics.recall_reranked_sketch->Increment(static_cast<double>(timings.sketched_pages));
    core_.metrics.recall_reranked_digest->Increment(static_cast<double>(timings.estimated_pages));
  }

  void Locate(recall::LayerSelection& selection, const std::vector<HeadTarget>& targets) {
    varve::v1::LayerRecallResult* layer = reply_->add_layers();
    layer->set_layer(selection.layer);
    LayerObjects objects(core_, checked_.session->ns(), layout_, selection);
    for (uint32_t h = 0; h < selection.heads.size(); ++h) {
      recall::HeadSelection& head = selection.heads[h];
      varve::v1::HeadRecallResult* result = layer->add_heads();
      result->mutable_selected()->Add(head.selected.begin(), head.selected.end());
      result->mutable_scores()->Add(head.scores.begin(), head.scores.end());
      result->mutable_resident_scores()->Add(head.resident_scores.begin(),
                                             head.resident_scores.end());
      result->mutable_missing_scores()->Add(head.missing_scores.begin(), head.missing_scores.end());
      const recall::DroppedMass& dropped = head.dropped;
      result->mutable_log_dropped_bound()->Add(dropped.log_bound.begin(), dropped.log_bound.end());
      result->mutable_log_dropped_estimate()->Add(dropped.log_estimate.begin(),
                                                  dropped.log_estimate.end());
      hot_ += head.selected.size() - head.missing.size();
      // Without slots the worker wants to know, not to have.
      const size_t slots = targets[h].slots.size();
      if (slots == 0) continue;
      const size_t count = std::min(head.missing.size(), slots);
      for (uint32_t i = 0; i < count; ++i) {
        AddPage(head, i, h, targets[h], objects, result->add_recalled());
      }
      if (count < head.missing.size()) AddCramped(head, slots, result->add_recalled());
    }
    good_objects_ += objects.Release(handles_);
  }

  // One row for all pages without a slot: the first of them.
  static void AddCramped(const recall::HeadSelection& head, size_t slots,
                         varve::v1::RecalledPage* page) {
    page->set_page(head.missing[slots]);
    page->set_slot(static_cast<uint32_t>(slots));
    page->set_miss_reason(varve::v1::MISS_REASON_FAILED);
    page->set_message(absl::StrCat("no slot: ", head.missing.size(), " pages are missing, ", slots,
                                   " slots were named"));
  }

  void AddPage(const recall::HeadSelection& head, uint32_t i, uint32_t kv_head,
               const HeadTarget& target, LayerObjects& objects, varve::v1::RecalledPage* page) {
    page->set_page(head.missing[i]);
    page->set_slot(i);
    page::ObjectRange range{target.part, kv_head, 1};
    Piece slot = target.slots[i];
    if (target.ValuesAlone(head.missing[i])) {
      range.part = page::Part::kV;
      slot.offset += layout_.part_bytes;
      slot.bytes -= layout_.part_bytes;
    }
    store::MissReason reason;
    const store::GetHandle* object = objects.Find(head.missing[i], range, &reason);
    if (object == nullptr) {
      page->set_miss_reason(ToProto(reason));
      return;
    }
    if (!object->loaded()) {
      return AddDiskPage(head.missing[i], range, std::move(slot), objects, page);
    }
    bytes_ += AddSegments(*object, range, slot, segments_);
    travelling_.push_back(page);
  }

  uint64_t AddSegments(const store::GetHandle& object, const page::ObjectRange& range,
                       const Piece& slot, std::vector<transport::Segment>& segments) const {
    PieceCursor cursor(std::span(&slot, 1));
    uint64_t bytes = 0;
    page::ForEachExtent(layout_, range, [&](page::Extent extent) {
      cursor.Map(Mutable(object.Bytes(extent)), nullptr, segments);
      bytes += extent.bytes;
    });
    return bytes;
  }

  // ---- pages on disk: each its own way, as it comes

  struct DiskPage {
    std::unique_ptr<store::GetHandle> object;
    page::ObjectRange range;
    Piece slot;
    varve::v1::RecalledPage* page;
    uint64_t bytes = 0;
  };

  void AddDiskPage(uint32_t page_id, const page::ObjectRange& range, Piece slot,
                   LayerObjects& objects, varve::v1::RecalledPage* page) {
    std::unique_ptr<store::GetHandle> object = objects.Another(page_id);
    if (object == nullptr) {
      return MissDiskPage(page, store::MissReason::kEvicted, "it was removed meanwhile");
    }
    disk_pages_.push_back({std::move(object), range, std::move(slot), page});
  }

  void MissDiskPage(varve::v1::RecalledPage* page, store::MissReason reason, std::string message) {
    page->set_miss_reason(ToProto(reason));
    page->set_message(std::move(message));
    core_.metrics.CountMiss(reason);
  }

  void Load(size_t i) {
    parts_.fetch_add(1);
    disk_pages_[i].object->Load(disk_pages_[i].range, checked_.deadline,
                                [self = shared_from_this(), i](const absl::Status& status) {
                                  // Not on a thread of the disk.
                                  base::Task task = [self, i, status] {
                                    self->OnLoaded(i, status);
                                  };
                                  if (self->checked_.prefetch)
                                    return self->core_.recall_pool.RunBehind(std::move(task));
                                  self->core_.recall_pool.Run(std::move(task));
                                });
  }

  void OnLoaded(size_t i, const absl::Status& status) {
    DiskPage& page = disk_pages_[i];
    if (!status.ok()) {
      MissDiskPage(page.page, store::MissReason::kFailed, absl::StrCat("disk: ", status.message()));
      return EndDiskPage(page);
    }
    if (core_.config.host_tier().verify_reads() && !page.object->Verify(page.range).ok()) {
      MissDiskPage(page.page, store::MissReason::kCorrupt, "");
      return EndDiskPage(page);
    }
    std::vector<transport::Segment> segments;
    page.bytes = AddSegments(*page.object, page.range, page.slot, segments);
    Send(std::move(segments), [self = shared_from_this(), &page](const absl::Status& transferred) {
      self->DeliverDiskPage(page, transferred);
    });
  }

  void DeliverDiskPage(DiskPage& page, const absl::Status& status) {
    page.page->set_done(status.ok());
    if (status.ok()) {
      CountHit(core_, store::TierId::kNvme, page.bytes);
      core_.metrics.recall_pages_fetched->Increment();
    } else {
      MissDiskPage(page.page, store::MissReason::kFailed,
                   absl::StrCat("transfer: ", status.message()));
    }
    EndDiskPage(page);
  }

  void EndDiskPage(DiskPage& page) {
    page.object.reset();
    EndPart();
  }

  void EndPart() {
    if (parts_.fetch_sub(1) == 1) Finish();
  }

  // On a transport thread: quick, and nothing here waits.
  void Deliver(const absl::Status& status) {
    transfer_ = absl::Now() - transfer_start_;
    for (varve::v1::RecalledPage* page : travelling_) {
      page->set_done(status.ok());
      if (status.ok()) continue;
      page->set_miss_reason(varve::v1::MISS_REASON_FAILED);
      page->set_message(absl::StrCat("transfer: ", status.message()));
    }
    if (!status.ok()) {
      for (size_t i = 0; i < good_objects_; ++i) {
        core_.metrics.CountMiss(store::MissReason::kFailed);
      }
      return;
    }
    core_.metrics.recall_pages_fetched->Increment(static_cast<double>(travelling_.size()));
    TierMetrics& host = core_.metrics.tier(store::TierId::kHost);
    host.served_bytes->Increment(static_cast<double>(bytes_));
    host.hits->Increment(static_cast<double>(good_objects_));
    core_.metrics.recall_transfer_seconds->Observe(absl::ToDoubleSeconds(transfer_));
  }

  void Finish() {
    handles_.clear();
    const absl::Duration total = absl::Now() - start_;
    varve::v1::RecallTimings* timings = reply_->mutable_timings();
    timings->set_queue_us(Micros(queue_));
    timings->set_score_us(Micros(score_));
    timings->set_select_us(Micros(select_));
    timings->set_rerank_us(Micros(rerank_));
    timings->set_locate_us(Micros(locate_));
    timings->set_transfer_us(Micros(transfer_));
    timings->set_total_us(Micros(total));
    core_.metrics.recall_score_seconds->Observe(absl::ToDoubleSeconds(score_));
    core_.metrics.recall_select_seconds->Observe(absl::ToDoubleSeconds(select_));
    core_.metrics.recall_locate_seconds->Observe(absl::ToDoubleSeconds(locate_));
    core_.metrics.recall_seconds->Observe(absl::ToDoubleSeconds(total));
    core_.metrics.recall_pages_hot->Increment(static_cast<double>(hot_));
    std::move(answer_)(absl::OkStatus());
  }

  Core& core_;
  const absl::Time start_;
  CheckedRecall checked_;
  RecallReply* const reply_;
  Answer answer_;
  page::ObjectLayout layout_;
  std::vector<std::unique_ptr<store::GetHandle>> handles_;  // pinned until the transfer is done
  std::vector<transport::Segment> segments_;
  std::vector<varve::v1::RecalledPage*> travelling_;
  std::vector<DiskPage> disk_pages_;
  std::atomic<size_t> parts_{1};  // pages on disk, and one for those in memory
  uint64_t bytes_ = 0;
  size_t good_objects_ = 0;
  size_t hot_ = 0;
  absl::Time transfer_start_;
  const absl::Duration queue_ = absl::Now() - start_;
  absl::Duration score_, select_, rerank_, locate_, transfer_;
};

}  // namespace

void RunOnRecallThread(Core& core, const RecallRequest& request, base::Task task) {
  if (request.prefetch()) return core.recall_pool.RunBehind(std::move(task));
  core.recall_pool.Run(std::move(task));
}

void StartRecall(Core& core, const RecallRequest& request, RecallReply* reply, Answer answer) {
  reply->set_tag(request.tag());
  // Checking touches every slot and takes locks of the session: with the rest, on a recall thread.
  base::Task run = [&core, &request, reply, arrived = absl::Now(),
                    answer = std::move(answer)]() mutable {
    absl::StatusOr<CheckedRecall> checked = CheckRecall(core, arrived, request);
    if (!checked.ok()) return std::move(answer)(checked.status());
    RunRecall(core, arrived, *std::move(checked), request.context_id(), reply, std::move(answer));
  };
  RunOnRecallThread(core, request, std::move(run));
}

uint64_t RunRecall(Core& core, absl::Time arrived, CheckedRecall checked,
                   const std::string& context_id, RecallReply* reply, Answer answer) {
  return std::make_shared<RecallOp>(core, arrived, std::move(checked), reply, std::move(answer))
      ->Run(context_id);
}

}  // namespace varve::server
