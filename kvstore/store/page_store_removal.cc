// Removing objects, and when that is safe: records are erased by tombstones, which have to be
// written.
#include <algorithm>
#include <utility>

#include "kvstore/store/page_store_impl.h"

namespace varve::store {
namespace {

// How much is done under one lock, so that nobody waits long behind a batch.
constexpr size_t kRemovalsPerLock = 256;

}  // namespace

bool PageStoreImpl::RemoveLocked(const FullKey& key, bool force,
                                 std::vector<tier::RecordId>& erased) {
  Object* object = index_.Find(key);
  if (object == nullptr) return false;
  if (!force && (object->held() || !object->pins.empty())) return false;
  // Of a record that is being made the log knows the id.
  const tier::RecordId written = object->record_written;
  const ObjectIndex::Freed freed = index_.Drop(object);
  FreeSlotLocked(freed.slot);
  if (const tier::RecordId record = freed.record != 0 ? freed.record : written; record != 0) {
    erased.push_back(record);
  }
  return true;
}

bool PageStoreImpl::Remove(NamespaceId ns, const page::ObjectKey& key, bool force) {
  std::vector<tier::RecordId> erased;
  bool removed = false;
  {
    base::MutexLock lock(mutex_);
    index_.ExpirePins(clock_->Now());
    removed = RemoveLocked(FullKey{ns, key}, force, erased);
    if (!erased.empty()) EraseLocked(erased);
  }
  WakeRoomWaiters();
  return removed;
}

void PageStoreImpl::RemoveAll(NamespaceId ns, std::span<const page::ObjectKey> keys, bool force,
                              RemoveDone done) {
  const bool wait = has_disk() && options_.disk->durability == Durability::kNvmeSync;
  const auto removing = std::make_shared<Removing>();
  {
    base::MutexLock lock(mutex_);
    removing->done = std::move(done);
  }
  while (!keys.empty()) {
    const size_t count = std::min(kRemovalsPerLock, keys.size());
    std::vector<tier::RecordId> erased;
    base::MutexLock lock(mutex_);
    index_.ExpirePins(clock_->Now());
    for (const page::ObjectKey& key : keys.first(count)) {
      removing->removed.push_back(RemoveLocked(FullKey{ns, key}, force, erased));
    }
    if (!erased.empty()) EraseLocked(erased);
    if (wait && no_waiting_) removing->status = absl::UnavailableError("the store is ending");
    if (wait && !no_waiting_ && !erasures_.empty()) {
      ++removing->open_parts;
      remove_waiters_.push_back(
          {last_erasure_, clock_->Now() + options_.disk->max_write_wait, removing});
    }
    keys = keys.subspan(count);
  }
  WakeRoomWaiters();
  EndPart(removing, absl::OkStatus());
}

void PageStoreImpl::EndPart(const std::shared_ptr<Removing>& removing, const absl::Status& status) {
  {
    base::MutexLock lock(mutex_);
    removing->status.Update(status);
    if (--removing->open_parts > 0) return;
  }
  std::move(removing->done)(removing->status, std::move(removing->removed));
}

void PageStoreImpl::EraseLocked(std::span<const tier::RecordId> records) {
  const uint64_t erasure = ++last_erasure_;
  erasures_.insert(erasure);
  BeginLocked();
  const bool sync = options_.disk->durability == Durability::kNvmeSync;
  log().Erase(records, sync ? tier::Sync::kYes : tier::Sync::kNo,
              [this, erasure](const absl::Status& status) { OnErased(erasure, status); });
}

void PageStoreImpl::OnErased(uint64_t erasure, const absl::Status& status) {
  std::vector<std::shared_ptr<Removing>> over;
  {
    base::MutexLock lock(mutex_);
    erasures_.erase(erasure);
    for (RemoveWaiter& waiter : remove_waiters_) {
      if (erasure <= waiter.erasure) waiter.removing->status.Update(status);
    }
    // In the order of their erasures.
    while (!remove_waiters_.empty() &&
           (erasures_.empty() || *erasures_.begin() > remove_waiters_.front().erasure)) {
      over.push_back(std::move(remove_waiters_.front().removing));
      remove_waiters_.pop_front();
    }
  }
  for (const auto& removing : over) EndPart(removing, absl::OkStatus());
  End();
}

void PageStoreImpl::StopWaiting() {
  const absl::Status ending = absl::UnavailableError("the store is ending, and the disk is slow");
  std::vector<DurableWaiter> puts;
  std::deque<RemoveWaiter> removals;
  ResizeDone resize;
  {
    base::MutexLock lock(mutex_);
    no_waiting_ = true;
    resize = std::exchange(resize_done_, nullptr);
    for (auto& [object, waiters] : durable_waiters_) {
      for (DurableWaiter& waiter : waiters) puts.push_back(std::move(waiter));
    }
    durable_waiters_.clear();
    removals.swap(remove_waiters_);
  }
  host_->StopGrowing();
  if (resize) std::move(resize)(absl::UnavailableError("the store is ending"));
  for (DurableWaiter& put : puts) std::move(put.done)(ending);
  for (RemoveWaiter& waiter : removals) EndPart(waiter.removing, ending);
  WakeRoomWaiters();
}

}  // namespace varve::store
