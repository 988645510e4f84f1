// What goes to the disk and comes from there: objects being written, and read for a Get.
#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/store/page_store_impl.h"
#include "kvstore/store/record_label.h"

namespace varve::store {
namespace {

// How much is done under one lock, so that nobody waits long behind it.
constexpr uint32_t kDiskEvictionSteps = 1024;
constexpr absl::Duration kBetweenRetries = absl::Seconds(10);

}  // namespace

PageStoreImpl::~PageStoreImpl() {
  std::vector<DurableWaiter> abandoned;
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    for (Object* object : std::exchange(write_queue_, {})) {
      for (auto& waiter : durable_waiters_[object]) abandoned.push_back(std::move(waiter));
      durable_waiters_.erase(object);
    }
    promotions_.clear();
    while (operations_ > 0) idle_.Wait(mutex_);
  }
  for (DurableWaiter& waiter : abandoned) {
    std::move(waiter.done)(absl::UnavailableError("the store ended before the object was on disk"));
  }
  WakeRoomWaiters();
}

// ---- at start

absl::Status PageStoreImpl::Recover() {
  const absl::Time start = clock_->Now();
  struct Found {
    std::unique_ptr<Object> object;
    std::string parent;
  };
  std::vector<Found> found;
  std::vector<tier::RecordId> strange;
  absl::Status unknown;  // what a newer program wrote is not for this one to erase
  VARVE_RETURN_IF_ERROR(log().Recover([&](const tier::RecordLog::Recovered& record) {
    if (IsNoteLabel(record.label) && CheckLabelKnown(record.label).ok()) {
      return journal_->Add(record);
    }
    absl::StatusOr<ObjectLabel> label = ParseObjectLabel(record.label, record.payload_bytes);
    if (absl::IsFailedPrecondition(label.status())) {
      return unknown.Update(base::Annotate(label.status(), absl::StrCat("record ", record.id)));
    }
    if (!label.ok()) return strange.push_back(record.id);
    auto object = std::make_unique<Object>();
    {
      base::MutexLock lock(mutex_);
      const auto next = static_cast<NamespaceId>(namespaces_.size() + 1);
      const auto [ns, is_new] = namespaces_.try_emplace(label->ns_name, next);
      if (is_new) namespace_names_.push_back(label->ns_name);
      object->key = FullKey{ns->second, label->key};
    }
    object->meta = std::move(label->meta);
    object->checksums = std::move(label->checksums);
    object->record = record.id;
    found.push_back({std::move(object), std::move(label->parent)});
  }));
  if (!unknown.ok()) {
    return base::Annotate(unknown, "another version of this program has written to the disks");
  }
  for (const Found& each : found) {
    const uint64_t needed = each.object->meta.bytes + 2 * tier::kReadAlignment;
    if (needed <= staging_->capacity_bytes()) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "the disks have a value of ", each.object->meta.bytes,
        " bytes, which is read through staging memory; that has ", staging_->capacity_bytes(),
        " bytes (nvme_tier.staging_bytes) at this start, ", needed, " are needed"));
  }
  // The order in which they were written: of two with one key the later one counts, and eviction
  // begins with the oldest.
  std::sort(found.begin(), found.end(),
            [](const Found& a, const Found& b) { return a.object->record < b.object->record; });
  base::MutexLock lock(mutex_);
  const absl::Time now = clock_->Now();
  for (auto& [object, parent] : found) {
    if (Object* older = index_.Find(object->key)) {
      strange.push_back(index_.Drop(older).record);
    }
    if (!parent.empty()) index_.Expect(object.get(), parent);
    index_.Publish(object, now);
  }
  uint32_t steps = std::numeric_limits<uint32_t>::max();
  while (Object* expired = index_.NextExpired(now, steps)) {
    misses_.Remember(expired->identity, MissReason::kExpired);
    strange.push_back(index_.Drop(expired).record);
  }
  recovered_objects_ = index_.objects();
  recovery_seconds_ = absl::ToDoubleSeconds(clock_->Now() - start);
  if (!found.empty() || !strange.empty()) {
    base::LogInfo("recovered ", recovered_objects_, " objects of ", index_.object_bytes(),
                  " bytes from disk in ", recovery_seconds_, " s; ", strange.size(),
                  " records were superseded, expired or of no use");
  }
  if (!strange.empty()) EraseLocked(strange);
  NoteDiskStateLocked();
  return absl::OkStatus();
}

// ---- operations under way

void PageStoreImpl::End() {
  base::MutexLock lock(mutex_);
  if (--operations_ == 0 && stopping_) idle_.NotifyAll();
}

void PageStoreImpl::RunLater(base::Task task) {
  BeginLocked();
  options_.disk->executor->Run([this, task = std::move(task)]() mutable {
    std::move(task)();
    End();
  });
}

void PageStoreImpl::NoteDiskStateLocked() {
  const bool writes = log().Room().takes_writes;
  const bool changed = std::exchange(disk_writes_, writes) != writes;
  if (changed && writes) {
    base::LogInfo("the disk takes objects again");
  } else if (changed) {
    base::LogError("the disk takes no objects: what leaves host memory is lost from now on");
  }
  const bool usable = writes && !disk_refuses_;
  if (std::exchange(disk_usable_, usable) != usable) index_.HoldsGuardHost(!usable);
  // What it missed.
  if (changed && writes && options_.disk->durability != Durability::kMemory) QueueAllLocked();
}

// ---- writing

namespace {

absl::Status NotFlushed(uint64_t objects, const absl::Status& last_error) {
  if (objects == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(
      objects, " objects could not be written to disk; the last: ", last_error.message()));
}

}  // namespace

void PageStoreImpl::QueueWriteLocked(Object* object, bool demote) {
  index_.OpenUnused(object);
  object->writing = true;
  object->write_failed = false;
  object->demoting = demote;
  ++queued_objects_;
  queued_bytes_ += object->meta.bytes;
  if (demote) {
    demoting_bytes_ += object->slot.extent_bytes;
    index_.BeginLeaving(object);
  }
  write_queue_.push_back(object);
}

void PageStoreImpl::QueueAllLocked() {
  std::vector<Object*> missed;
  index_.ForEach([&missed](Object& object) {
    if (object.record == 0 && !object.writing) missed.push_back(&object);
  });
  for (Object* object : missed) QueueWriteLocked(object, /*demote=*/false);
}

void PageStoreImpl::RetryWritesLocked() {
  const absl::Time now = clock_->Now();
  if (!writes_to_retry_ || !disk_writes_ || now < next_retry_) return;
  writes_to_retry_ = false;
  next_retry_ = now + kBetweenRetries;
  std::vector<Object*> failed;
  index_.ForEach([&failed](Object& object) {
    if (object.write_failed && object.record == 0 && !object.writing) failed.push_back(&object);
  });
  for (Object* object : failed) QueueWriteLocked(object, /*demote=*/false);
}

void PageStoreImpl::PumpWritesLocked(std::vector<Left>& left) {
  while (!write_queue_.empty() && pending_bytes_ < options_.disk->max_pending_bytes) {
    Object* object = write_queue_.front();
    write_queue_.pop_front();
    BeginLocked();
    pending_bytes_ += object->meta.bytes;
    if (object->state == ObjectState::kGone) {
      RunLater([this, object] { OnWritten(object, absl::OkStatus()); });
      continue;
    }
    EvictFromDiskLocked(object, left);
    tier::RecordLog::AppendRequest request;
    request.label = EncodeObjectLabel(namespace_names_[object->key.ns - 1], object->key.key,
                                      index_.ParentOf(*object), object->meta, object->checksums);
    request.payload = host_->Map(object->slot);
    request.payload_crc32c = object->checksums.whole_crc32c;
    request.sync =
        options_.disk->durability == Durability::kNvmeSync ? tier::Sync::kYes : tier::Sync::kNo;
    // Done takes the lock first, so it finds the id.
    object->record_written = log().Append(
        std::move(request), [this, object](absl::Status status) { OnWritten(object, status); });
  }
}

void PageStoreImpl::OnWritten(Object* object, const absl::Status& status) {
  std::vector<Left> left;
  std::vector<DurableWaiter> waiters;
  std::vector<FlushWaiter> flushed;
  absl::Status not_flushed;
  const uint64_t bytes = object->meta.bytes;
  MoveCause cause;
  bool written = false, again = false;
  {
    base::MutexLock lock(mutex_);
    pending_bytes_ -= bytes;
    again = absl::IsResourceExhausted(status) && WriteAgainLocked(object, left);
    if (again) PumpWritesLocked(left);
  }
  if (again) {
    ReportLeft(left);
    return End();
  }
  {
    base::MutexLock lock(mutex_);
    object->writing = object->refused = false;
    queued_bytes_ -= bytes;
    --queued_objects_;
    const bool demoting = std::exchange(object->demoting, false);
    const bool put_waited = std::exchange(object->put_waits, false);
    cause = demoting ? MoveCause::kDemote : MoveCause::kPut;
    if (demoting) demoting_bytes_ -= object->slot.extent_bytes;
    const auto waiting = durable_waiters_.find(object);
    if (waiting != durable_waiters_.end()) {
      waiters = std::move(waiting->second);
      durable_waiters_.erase(waiting);
    }
    const tier::RecordId record = std::exchange(object->record_written, 0);
    // One that was gone before its turn was never given to the log.
    written = status.ok() && record != 0;
    const bool gone = object->state == ObjectState::kGone;
    if (gone && record != 0) FreeLocked({.slot = {}, .record = record});
    if (!gone && status.ok()) index_.AddRecord(object, record);
    CloseLocked(object);  // may be the end of it when it is gone
    if (!gone && !status.ok()) WriteFailedLocked(object, demoting, put_waited, status, left);
    if (!gone && status.ok() && demoting && !index_.guarded(*object, TierId::kHost)) {
      FreeLocked(index_.LeaveTier(object, TierId::kHost));
    } else if (!gone && status.ok() && demoting) {
      index_.EndLeaving(object);
    }
    PumpWritesLocked(left);
    if (queued_objects_ == 0) flushed.swap(flush_waiters_);
    for (FlushWaiter& waiter : flushed) waiter.write_errors = write_errors_ - waiter.write_errors;
    if (!flushed.empty()) not_flushed = last_write_error_;
  }
  if (written && options_.on_moved) options_.on_moved(cause, bytes);
  ReportLeft(left);
  for (DurableWaiter& waiter : waiters) std::move(waiter.done)(status);
  for (FlushWaiter& waiter : flushed) {
    std::move(waiter.done)(NotFlushed(waiter.write_errors, not_flushed));
  }
  WakeRoomWaiters();
  End();
}

bool PageStoreImpl::WriteAgainLocked(Object* object, std::vector<Left>& left) {
  const bool wanted = object->state != ObjectState::kGone && !stopping_;
  if (!wanted || !log().Room().takes_writes) return false;
  // Others may have made the room, which one more try will tell.
  const bool first = !std::exchange(object->refused, true);
  if (!EvictFromDiskLocked(object, left) && !first) return false;
  object->record_written = 0;
  write_queue_.push_front(object);
  return true;
}

void PageStoreImpl::AwaitWrittenLocked(const Object* object, PutHandle::CommitDone done) {
  durable_waiters_[object].push_back(
      {clock_->Now() + options_.disk->max_write_wait, std::move(done)});
}

std::vector<PageStoreImpl::DurableWaiter> PageStoreImpl::TakeOverdueLocked() {
  std::vector<DurableWaiter> overdue;
  const absl::Time now = clock_->Now();
  for (auto& [object, waiters] : durable_waiters_) {
    const auto late = std::stable_partition(waiters.begin(), waiters.end(),
                                            [now](const auto& w) { return w.deadline > now; });
    std::move(late, waiters.end(), std::back_inserter(overdue));
    waiters.erase(late, waiters.end());
  }
  return overdue;
}

void PageStoreImpl::WriteFailedLocked(Object* object, bool demoting, bool put_waited,
                                      const absl::Status& status, std::vector<Left>& left) {
  // What has to leave memory must not try the disk again and again: not before the next Tick.
  disk_refuses_ = disk_refuses_ || demoting;
  NoteDiskStateLocked();
  last_write_error_ = status;
  if (write_errors_++ == 0) {
    base::LogError("an object was not written to disk (later ones are only counted): ",
                   status.message());
  }
  if (put_waited) {
    // Nobody was told that it is stored. Who reads it keeps the bytes.
    return FreeLocked(index_.Drop(object));
  }
  if (demoting && !index_.guarded(*object, TierId::kHost) &&
      !index_.followed(*object, TierId::kHost)) {
    return EvictLocked(object, TierId::kHost, left);
  }
  if (demoting) index_.EndLeaving(object);
  // What was to be safe, is not. In the other mode nobody was told so.
  if (options_.disk->durability != Durability::kMemory) {
    object->write_failed = writes_to_retry_ = true;
  }
}

void PageStoreImpl::FitDisk() {
  std::vector<Left> left;
  {
    base::MutexLock lock(mutex_);
    EvictFromDiskLocked(nullptr, left);
  }
  ReportLeft(left);
}

bool PageStoreImpl::EvictFromDiskLocked(const Object* newcomer, std::vector<Left>& left) {
  const tier::LogRoom room = log().Room();
  // Evicting makes no room where nothing can be written.
  if (!room.takes_writes) return false;
  const uint64_t taken =
      room.taken_bytes + (newcomer != nullptr ? DiskBytes(newcomer->meta.bytes) : 0);
  const double high = newcomer != nullptr ? options_.disk->high_watermark : 1;
  if (taken <= Share(high, room.usable_bytes)) return false;
  const uint64_t low = Share(options_.disk->low_watermark, room.usable_bytes);
  uint64_t excess = taken > low ? taken - low : 0;
  index_.ExpirePins(clock_->Now());
  // At a start there is nobody to wait.
  uint32_t steps = newcomer != nullptr ? kDiskEvictionSteps : std::numeric_limits<uint32_t>::max();
  std::vector<tier::RecordId> erased;
  while (excess > 0) {
    Object* victim = index_.NextVictim(TierId::kNvme, steps, newcomer);
    if (victim == nullptr) break;
    excess -= std::min(excess, DiskBytes(victim->meta.bytes));
    erased.push_back(victim->record);
    if (victim->slot.bytes > 0) {
      CountLeftLocked(*victim, TierId::kNvme, left);
      index_.LeaveTier(victim, TierId::kNvme);
    } else {
      victim->record = 0;  // erased with the others
      EvictLocked(victim, TierId::kNvme, left);
    }
  }
  if (!erased.empty()) EraseLocked(erased);
  return !erased.empty();
}

void PageStoreImpl::Flush(PutHandle::CommitDone done) {
  std::vector<Left> left;
  absl::Status status;
  {
    base::MutexLock lock(mutex_);
    if (has_disk() && disk_writes_) {
      QueueAllLocked();
      if (queued_objects_ > 0) flush_waiters_.push_back({write_errors_, std::move(done)});
      PumpWritesLocked(left);
    } else if (has_disk() && index_.tier_objects(TierId::kNvme) < index_.objects()) {
      status = absl::UnavailableError("no directory of the nvme tier takes writes");
    }
  }
  ReportLeft(left);
  if (done) std::move(done)(std::move(status));
}

// ---- reading

void PageStoreImpl::Load(Object* object, uint64_t offset, uint64_t bytes, absl::Time deadline,
                         Loaded done) {
  auto reading = std::make_shared<Reading>(Reading{object, deadline, std::move(done)});
  {
    base::MutexLock lock(mutex_);
    BeginLocked();
    readings_.insert(reading);
  }
  staging_->Take(bytes, [this, reading = std::move(reading), offset](Staging::Buffer buffer) {
    ReadInto(reading, offset, std::move(buffer));
  });
}

void PageStoreImpl::ReadInto(const std::shared_ptr<Reading>& reading, uint64_t offset,
                             Staging::Buffer buffer) {
  tier::RecordId record = 0;
  {
    base::MutexLock lock(mutex_);
    // Nobody waits for it any more: then the object may be gone, too.
    if (reading->done) record = reading->object->record;
  }
  const std::span<std::byte> memory = buffer.memory();
  log().Read(record, offset, memory, tier::IoClass::kDemand,
             [this, reading, buffer = std::move(buffer)](absl::Status status) mutable {
               if (status.ok()) {
                 EndReading(reading, std::move(buffer));
               } else {
                 EndReading(reading, std::move(status));
               }
               End();
             });
}

void PageStoreImpl::EndReading(const std::shared_ptr<Reading>& reading,
                               absl::StatusOr<Staging::Buffer> result) {
  Loaded done;
  {
    base::MutexLock lock(mutex_);
    readings_.erase(reading);
    done = std::exchange(reading->done, nullptr);
  }
  if (!done) return;
  if (!result.ok()) NoteReadError(reading->object, result.status());
  std::move(done)(std::move(result));
}

void PageStoreImpl::NoteReadError(Object* object, const absl::Status& status) {
  if (absl::IsNotFound(status)) return;  // removed meanwhile
  base::MutexLock lock(mutex_);
  if (read_errors_++ == 0) {
    base::LogError("an object was not read from disk (later ones are only counted): ",
                   status.message());
  }
  if (!absl::IsDataLoss(status) || object->state == ObjectState::kGone) return;
  DropCopyLocked(object, TierId::kNvme, MissReason::kFailed);
}

// ---- time

void PageStoreImpl::Tick() {
  std::vector<std::shared_ptr<Reading>> slow;
  std::vector<DurableWaiter> overdue;
  std::vector<RemoveWaiter> removals;
  std::vector<Left> left;
  ExpireObjects();
  GoOnResizing();
  if (has_disk()) log().Tick();
  {
    base::MutexLock lock(mutex_);
    if (!has_disk()) return;
    disk_refuses_ = false;
    NoteDiskStateLocked();
    RetryWritesLocked();
    PumpWritesLocked(left);
    overdue = TakeOverdueLocked();
    const absl::Time now = clock_->Now();
    for (; !remove_waiters_.empty() && remove_waiters_.front().deadline <= now;
         remove_waiters_.pop_front()) {
      removals.push_back(std::move(remove_waiters_.front()));
    }
    for (const std::shared_ptr<Reading>& reading : readings_) {
      if (reading->deadline <= now) slow.push_back(reading);
    }
  }
  for (const std::shared_ptr<Reading>& reading : slow) {
    EndReading(reading, absl::DeadlineExceededError("the disk has not answered in time"));
  }
  for (DurableWaiter& waiter : overdue) {
    std::move(waiter.done)(absl::DeadlineExceededError(
        "the disk has not answered in time: the object may be on it later, or not"));
  }
  for (const RemoveWaiter& waiter : removals) {
    EndPart(waiter.removing, absl::DeadlineExceededError(
                                 "the disk has not answered in time: what was removed is gone, and "
                                 "may be back should the store or the machine fail now"));
  }
  ReportLeft(left);
  WakeRoomWaiters();
}

}  // namespace varve::store
