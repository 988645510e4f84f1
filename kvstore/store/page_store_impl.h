// The page store's one implementation: an index under one lock, host memory, and below it, maybe, a
// disk. Puts, gets and pins are in page_store.cc, removals in page_store_removal.cc, making room
// in page_store_room.cc, changing its size in page_store_resize.cc, what goes to the disk and is
// read there in page_store_disk.cc, what comes back in page_store_promotion.cc.
//
// Locks: the tier's, the staging's and the log's own are taken inside mutex_, never the other way
// round; whatever calls back is called outside of it.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "kvstore/base/mutex.h"
#include "kvstore/store/frequency_sketch.h"
#include "kvstore/store/log_journal.h"
#include "kvstore/store/miss_memory.h"
#include "kvstore/store/object_index.h"
#include "kvstore/store/page_handles.h"
#include "kvstore/store/page_store.h"
#include "kvstore/store/staging.h"
#include "kvstore/store/window.h"
#include "kvstore/tier/host_tier.h"

namespace varve::store {

// Objects that are looked through under one lock, so that nobody waits long behind it.
inline constexpr size_t kRowsPerLock = 256;

// A watermark in bytes.
inline uint64_t Share(double watermark, uint64_t bytes) {
  return static_cast<uint64_t>(watermark * static_cast<double>(bytes));
}

class PageStoreImpl final : public PageStore, private HandleOwner {
 public:
  PageStoreImpl(tier::HostTier* host, const PageStoreOptions& options,
                std::unique_ptr<EvictionPolicy> host_policy,
                std::unique_ptr<EvictionPolicy> disk_policy, const base::Clock* clock);
  // Waits for what is being written and read.
  ~PageStoreImpl() override;

  // What is on the disk; before any other call.
  absl::Status Recover();
  // Evicts what the disk has no room for.
  void FitDisk();

  absl::StatusOr<NamespaceId> InternNamespace(std::string_view name) override;
  std::string NamespaceName(NamespaceId ns) const override;
  std::vector<std::string> ListNamespaces(NamespaceId first, size_t limit) const override;
  absl::StatusOr<std::unique_ptr<PutHandle>> Reserve(NamespaceId ns, const page::ObjectKey& key,
                                                     const ObjectMeta& meta,
                                                     std::string_view parent) override;
  void AwaitRoom(uint64_t bytes, absl::Time deadline, base::Task done) override;
  void AwaitDurable(NamespaceId ns, const page::ObjectKey& key,
                    PutHandle::CommitDone done) override;
  std::unique_ptr<GetHandle> Acquire(NamespaceId ns, const page::ObjectKey& key,
                                     Miss* miss) override;
  std::vector<std::unique_ptr<GetHandle>> Peek(NamespaceId ns,
                                               std::span<const page::ObjectKey> keys) override;
  void CloseAll(std::vector<std::unique_ptr<GetHandle>> handles) override;
  std::unique_ptr<GetHandle> AcquireAgain(NamespaceId ns, const page::ObjectKey& key) override;
  bool Exists(NamespaceId ns, const page::ObjectKey& key) const override;
  bool Remove(NamespaceId ns, const page::ObjectKey& key, bool force) override;
  void RemoveAll(NamespaceId ns, std::span<const page::ObjectKey> keys, bool force,
                 RemoveDone done) override;
  bool Pin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner, absl::Duration ttl) override;
  bool Unpin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner) override;
  void UnpinAll(uint64_t owner) override;
  void Hold(NamespaceId ns, std::span<const std::string> block_hashes) override;
  void Release(NamespaceId ns, std::span<const std::string> block_hashes) override;
  std::vector<ObjectRow> List(NamespaceId ns, std::string_view prefix, std::string_view after,
                              size_t limit) const override;
  absl::StatusOr<EvictedMatching> EvictMatching(std::string_view ns_name,
                                                std::string_view prefix) override;
  std::vector<Prefetched> Prefetch(NamespaceId ns, std::span<const page::ObjectKey> keys) override;
  void Tick() override;
  void Flush(PutHandle::CommitDone done) override;
  void StopWaiting() override;
  void ResizeHost(uint64_t capacity_bytes, ResizeDone done) override;
  Journal* journal() override { return journal_.get(); }
  PageStoreUsage Usage() const override;

 private:
  // An object that left a tier, to be reported outside the lock.
  struct Left {
    TierId tier;
    uint64_t bytes;
    absl::Time last_use;
  };
  // One RemoveAll; guarded by mutex_.
  struct Removing {
    std::vector<bool> removed;
    size_t open_parts = 1;  // waiters, and one for RemoveAll itself
    absl::Status status;
    RemoveDone done;
  };
  struct RemoveWaiter {
    uint64_t erasure = 0;  // this one and all before it
    absl::Time deadline;
    std::shared_ptr<Removing> removing;
  };
  struct FlushWaiter {
    uint64_t write_errors = 0;  // there were so many before
    PutHandle::CommitDone done;
  };
  struct DurableWaiter {
    absl::Time deadline;
    PutHandle::CommitDone done;
  };
  struct RoomWaiter {
    uint64_t bytes = 0;
    base::Task done;
  };
  // A read for a handle, which may have gone when the disk answers at last.
  struct Reading {
    Object* object = nullptr;
    absl::Time deadline;
    Loaded done;  // null: answered
  };
  struct Promotion {
    Object* object = nullptr;  // with a handle of ours
    MoveCause cause = MoveCause::kPromote;
    tier::Slot slot;  // once it has one
  };

  // ---- HandleOwner
  absl::Status Commit(std::unique_ptr<Object>& reserved, PutHandle::CommitDone& done) override;
  void Abandon(std::unique_ptr<Object> reserved) override;
  std::span<std::byte> Map(const tier::Slot& slot) override { return host_->Map(slot); }
  void Load(Object* object, uint64_t offset, uint64_t bytes, absl::Time deadline,
            Loaded done) override;
  void Close(Object* object) override;
  void DropCorrupt(Object* object, TierId tier) override;

  absl::Status Validate(const ObjectMeta& meta) const;
  // Of a copy that cannot be read; and of the object when there is no other.
  void DropCopyLocked(Object* object, TierId tier, MissReason reason)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Where a handle reads it; of 0 bytes: on disk.
  static tier::Slot ReadableSlot(const Object& object) {
    return object.host_damaged ? tier::Slot() : object.slot;
  }
  // Null, too, when it has expired: then it is dropped.
  Object* FindLocked(const FullKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool has_disk() const { return options_.disk.has_value(); }
  tier::RecordLog& log() const { return *options_.disk->log; }
  // Gives back what an index operation freed. The slot under the lock: whoever then finds nothing
  // to evict finds the room.
  void FreeLocked(const ObjectIndex::Freed& freed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FreeSlotLocked(const tier::Slot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Closes a handle of the store's own.
  void CloseLocked(Object* object) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // ---- page_store_room.cc
  uint64_t low_bytes() const { return Share(options_.low_watermark, host_->capacity_bytes()); }
  uint64_t high_bytes() const { return Share(options_.high_watermark, host_->capacity_bytes()); }
  // continues: it is for a block that follows another.
  absl::StatusOr<tier::Slot> ReserveSlot(uint64_t bytes, bool continues = false);
  // For what fits no hole: evicts the least that makes one, or nothing. O(objects) under the lock.
  absl::StatusOr<tier::Slot> ReserveWindow(uint64_t bytes, bool continues);
  absl::StatusOr<tier::Slot> ReserveWindow(uint64_t bytes, bool continues, std::vector<Left>& left);
  // Neighbours that may go, and the holes between them; not `any`: and that end their chains. A
  // view of `pieces`.
  std::span<const Piece> WindowLocked(uint64_t bytes, bool any, std::vector<Piece>& pieces) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes objects leave host memory until no more than used_bytes are used, or will be when those
  // on their way to disk have left; answers how many have left.
  size_t EvictTo(uint64_t used_bytes);
  // True: there is more to do.
  bool EvictSome(uint64_t used_bytes, std::vector<Left>& left);
  // One that its policy named, or a neighbour: leaves host memory for good, or starts to.
  void EvictFromHostLocked(Object* object, std::vector<Left>& left)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ExpireLocked(Object* object) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops what has expired.
  void ExpireObjects();
  // Out of the store, to make room.
  void EvictLocked(Object* object, TierId tier, std::vector<Left>& left)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Likewise, whatever the reason.
  void DropEvictedLocked(Object* object, TierId tier, std::vector<Left>& left)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountLeftLocked(const Object& object, TierId tier, std::vector<Left>& left)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReportLeft(const std::vector<Left>& left) const;
  absl::Status NoRoomLocked(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Room was made, or will not be: as many of those who wait as it may be for look again.
  void WakeRoomWaiters();

  // ---- page_store_resize.cc
  absl::Status CheckResizeLocked(uint64_t capacity_bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GoOnResizing();
  struct Moving {
    Object* object = nullptr;  // with a handle of ours
    bool pinned = false;
  };
  bool IsBeyond(const Object& object) const {
    return object.slot.offset + object.slot.extent_bytes > host_->capacity_bytes();
  }
  // Until nothing lies beyond the capacity, or handles are in the way. all: looks at every object,
  // not only at those that stayed the last time. REQUIRES: resizing_, set by the caller; ends it.
  void VacateBeyond(bool all);
  void VacateAll(NamespaceId ns);
  void VacateLeft();
  // Of an object that may lie beyond: opens it, or leaves it for later.
  void TakeBeyondLocked(Object& object, std::vector<Moving>& moving)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // A copy in host memory more.
  void NoteIfBeyondLocked(const Object& object) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (IsBeyond(object)) beyond_.push_back(object.key);
  }
  // Closes its handle.
  void MoveDown(const Moving& moving);

  // ---- page_store_disk.cc
  // Operations: what is with the log, the executor or the staging, and calls back.
  void BeginLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { ++operations_; }
  void End();
  void RunLater(base::Task task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the log takes records now decides what becomes of objects that leave host memory.
  void NoteDiskStateLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Every erasure goes this way: removals wait for those before them.
  void EraseLocked(std::span<const tier::RecordId> records) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnErased(uint64_t erasure, const absl::Status& status);
  bool RemoveLocked(const FullKey& key, bool force, std::vector<tier::RecordId>& erased)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // One part of it is over; calls its done after the last.
  void EndPart(const std::shared_ptr<Removing>& removing, const absl::Status& status);
  // Queues the object for the log. REQUIRES: in host memory, not on disk, not queued.
  void QueueWriteLocked(Object* object, bool demote) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void QueueAllLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Those that could not be written, once in a while.
  void RetryWritesLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives the log as much of the queue as it may have.
  void PumpWritesLocked(std::vector<Left>& left) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnWritten(Object* object, const absl::Status& status);
  void AwaitWrittenLocked(const Object* object, PutHandle::CommitDone done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Those that have waited for too long.
  std::vector<DurableWaiter> TakeOverdueLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // For an object that the disk had no room for: the log knows by now what room there is, so that
  // evicting makes some. False: nothing is gained by writing it again.
  bool WriteAgainLocked(Object* object, std::vector<Left>& left)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // put_waited: the Put that made the object gets this error. Who put it once more gets it too, and
  // loses nothing.
  void WriteFailedLocked(Object* object, bool demoting, bool put_waited, const absl::Status& status,
                         std::vector<Left>& left) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // So that it fits under the high watermark; null: so that there is room for what is there. False:
  // nothing was evicted.
  bool EvictFromDiskLocked(const Object* newcomer, std::vector<Left>& left)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReadInto(const std::shared_ptr<Reading>& reading, uint64_t offset, Staging::Buffer buffer);
  void EndReading(const std::shared_ptr<Reading>& reading, absl::StatusOr<Staging::Buffer> result);
  void NoteReadError(Object* object, const absl::Status& status);

  // ---- page_store_promotion.cc
  // False: too many are queued.
  bool QueuePromotionLocked(Object* object, MoveCause cause) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartPromotions();
  void OnPromotionRead(const Promotion& promotion, const absl::Status& status);
  void EndPromotion(const Promotion& promotion, bool good);

  tier::HostTier* const host_;
  const PageStoreOptions options_;
  const base::Clock* const clock_;
  std::unique_ptr<LogJournal> journal_;
  std::unique_ptr<Staging> staging_;

  mutable base::Mutex mutex_;
  mutable ObjectIndex index_ ABSL_GUARDED_BY(mutex_);  // soft pins expire when somebody looks
  MissMemory misses_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, NamespaceId> namespaces_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> namespace_names_ ABSL_GUARDED_BY(mutex_);  // of id i + 1
  PerTier<EvictionCounters> eviction_ ABSL_GUARDED_BY(mutex_);
  PerTier<uint64_t> checksum_failures_ ABSL_GUARDED_BY(mutex_);

  bool resizing_ ABSL_GUARDED_BY(mutex_) = false;        // somebody is at it
  ResizeDone resize_done_ ABSL_GUARDED_BY(mutex_);       // null: host memory has the size it should
  std::vector<FullKey> beyond_ ABSL_GUARDED_BY(mutex_);  // at most these, once all were looked at

  // ---- the disk's
  std::deque<Object*> write_queue_ ABSL_GUARDED_BY(mutex_);  // each with a handle of ours
  uint64_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;        // in the queue or in the log's hands
  uint64_t queued_objects_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t pending_bytes_ ABSL_GUARDED_BY(mutex_) = 0;   // in the log's hands
  uint64_t demoting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of slots that become free when written
  bool disk_usable_ ABSL_GUARDED_BY(mutex_) = false;     // for what leaves host memory
  bool disk_writes_ ABSL_GUARDED_BY(mutex_) = false;     // a directory takes records
  bool disk_refuses_ ABSL_GUARDED_BY(mutex_) = false;    // one of late, until the next Tick
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<const Object*, std::vector<DurableWaiter>> durable_waiters_
      ABSL_GUARDED_BY(mutex_);
  uint64_t last_erasure_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<uint64_t> erasures_ ABSL_GUARDED_BY(mutex_);  // with the log
  std::deque<RemoveWaiter> remove_waiters_ ABSL_GUARDED_BY(mutex_);
  bool no_waiting_ ABSL_GUARDED_BY(mutex_) = false;
  std::multimap<absl::Time, RoomWaiter> room_waiters_ ABSL_GUARDED_BY(mutex_);  // by deadline
  std::atomic<bool> room_awaited_{false};                                       // there are some
  std::vector<FlushWaiter> flush_waiters_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<std::shared_ptr<Reading>> readings_ ABSL_GUARDED_BY(mutex_);
  FrequencySketch uses_ ABSL_GUARDED_BY(mutex_);
  std::deque<Promotion> promotions_ ABSL_GUARDED_BY(mutex_);
  uint32_t promotions_reading_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t read_errors_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t write_errors_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status last_write_error_ ABSL_GUARDED_BY(mutex_);
  bool writes_to_retry_ ABSL_GUARDED_BY(mutex_) = false;  // some object may have write_failed
  absl::Time next_retry_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  uint64_t recovered_objects_ ABSL_GUARDED_BY(mutex_) = 0;
  double recovery_seconds_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t operations_ ABSL_GUARDED_BY(mutex_) = 0;  // with the log, the executor or the staging
  base::CondVar idle_;
};

}  // namespace varve::store
