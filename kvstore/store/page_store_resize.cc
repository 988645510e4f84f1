// Changing the size of host memory while everything goes on. What lies beyond a lower capacity is
// copied to holes below it; what finds none leaves as any victim does. Open handles keep their
// object where it is: then Tick tries again, with these and what was put there meanwhile alone.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/units.h"
#include "kvstore/store/page_store_impl.h"

namespace varve::store {

absl::Status PageStoreImpl::CheckResizeLocked(uint64_t capacity_bytes) const {
  const uint64_t max = host_->max_capacity_bytes();
  if (capacity_bytes < options_.max_object_bytes || capacity_bytes > max) {
    return absl::InvalidArgumentError(
        absl::StrCat("host memory of ", base::FormatBytes(capacity_bytes), ", allowed: from ",
                     base::FormatBytes(options_.max_object_bytes), ", the largest object, to ",
                     base::FormatBytes(max)));
  }
  if (resizing_) {
    return absl::UnavailableError("the size of host memory is being changed already");
  }
  if (no_waiting_) return absl::UnavailableError("the store is ending");
  const uint64_t pinned_bytes = index_.CountPinnedBytes(TierId::kHost);
  if (pinned_bytes <= capacity_bytes) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "host memory of ", base::FormatBytes(capacity_bytes), " has no room for the ",
      base::FormatBytes(pinned_bytes), " of it that are pinned or held by attached contexts"));
}

void PageStoreImpl::ResizeHost(uint64_t capacity_bytes, ResizeDone done) {
  absl::Status status;
  {
    base::MutexLock lock(mutex_);
    index_.ExpirePins(clock_->Now());
    status = CheckResizeLocked(capacity_bytes);
    if (status.ok()) resizing_ = true;
  }
  if (!status.ok()) return std::move(done)(std::move(status));
  const bool grows = capacity_bytes >= host_->capacity_bytes();
  status = grows ? host_->Grow(capacity_bytes) : host_->Shrink(capacity_bytes);
  ResizeDone replaced;
  {
    base::MutexLock lock(mutex_);
    if ((status.ok() || absl::IsCancelled(status)) && no_waiting_)
      status = absl::UnavailableError("the store is ending");
    if (status.ok()) {
      replaced = std::exchange(resize_done_, std::move(done));
    } else {
      resizing_ = false;
    }
  }
  if (!status.ok()) return std::move(done)(std::move(status));
  if (replaced) {
    std::move(replaced)(absl::AbortedError("host memory was given yet another size meanwhile"));
  }
  VacateBeyond(/*all=*/true);
}

void PageStoreImpl::GoOnResizing() {
  {
    base::MutexLock lock(mutex_);
    if (resizing_ || !resize_done_) return;
    resizing_ = true;
  }
  VacateBeyond(/*all=*/false);
}

void PageStoreImpl::VacateBeyond(bool all) {
  if (host_->Usage().used_bytes > high_bytes()) EvictTo(low_bytes());
  if (host_->Usage().beyond_bytes > 0 && !all) VacateLeft();
  if (host_->Usage().beyond_bytes > 0 && all) {
    size_t namespaces = 0;
    {
      base::MutexLock lock(mutex_);
      namespaces = namespace_names_.size();
      beyond_.clear();
    }
    for (NamespaceId ns = 1; ns <= namespaces; ++ns) VacateAll(ns);
  }
  const bool finished = host_->ReleaseBeyond();
  ResizeDone done;
  {
    base::MutexLock lock(mutex_);
    resizing_ = false;
    if (finished) done = std::exchange(resize_done_, nullptr);
  }
  WakeRoomWaiters();
  if (done) std::move(done)(absl::OkStatus());
}

void PageStoreImpl::VacateAll(NamespaceId ns) {
  std::string from;
  for (bool more = true; more;) {
    std::vector<Moving> moving;
    {
      base::MutexLock lock(mutex_);
      std::vector<Object*> objects;
      index_.Scan(ns, "", from, [&](Object& object) {
        objects.push_back(&object);
        return objects.size() < kRowsPerLock;
      });
      if (!objects.empty()) from = objects.back()->key.key.bytes();
      for (Object* object : objects) TakeBeyondLocked(*object, moving);
      more = objects.size() == kRowsPerLock && !no_waiting_;
    }
    for (const Moving& m : moving) MoveDown(m);
  }
}

void PageStoreImpl::VacateLeft() {
  std::vector<FullKey> left;
  {
    base::MutexLock lock(mutex_);
    left.swap(beyond_);
  }
  for (size_t next = 0; next < left.size();) {
    std::vector<Moving> moving;
    {
      base::MutexLock lock(mutex_);
      for (const size_t end = std::min(left.size(), next + kRowsPerLock); next < end; ++next) {
        if (Object* object = index_.Find(left[next])) TakeBeyondLocked(*object, moving);
      }
    }
    for (const Moving& m : moving) MoveDown(m);
  }
}

void PageStoreImpl::TakeBeyondLocked(Object& object, std::vector<Moving>& moving) {
  if (!IsBeyond(object)) return;
  if (object.handles > 0) return beyond_.push_back(object.key);
  moving.push_back({.object = &object, .pinned = index_.pinned(object, TierId::kHost)});
  index_.OpenUnused(&object);
}

void PageStoreImpl::MoveDown(const Moving& moving) {
  Object* const object = moving.object;
  absl::StatusOr<tier::Slot> to = host_->Reserve(object->meta.bytes);
  // What must stay is worth others' room.
  if (!to.ok() && moving.pinned) to = ReserveSlot(object->meta.bytes);
  if (to.ok()) std::memcpy(host_->Map(*to).data(), host_->Map(object->slot).data(), to->bytes);
  std::vector<Left> left;
  {
    base::MutexLock lock(mutex_);
    // Whoever has come meanwhile reads where it is.
    const bool alone = object->handles == 1 && object->state == ObjectState::kResident;
    if (to.ok()) {
      if (alone) std::swap(object->slot, *to);
      FreeSlotLocked(*to);
    }
    NoteIfBeyondLocked(*object);
    CloseLocked(object);
    // Victims that are on their way to disk leave holes soon.
    const bool there = alone && object->slot.bytes > 0;  // it may have been found damaged
    if (there && !to.ok() && demoting_bytes_ == 0 && !index_.guarded(*object, TierId::kHost)) {
      EvictFromHostLocked(object, left);
      PumpWritesLocked(left);
    }
  }
  ReportLeft(left);
}

}  // namespace varve::store
