#include "kvstore/store/page_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/page/codec/codec.h"
#include "kvstore/store/eviction_policy.h"
#include "kvstore/store/page_store_impl.h"

namespace varve::store {
namespace {

// How much is done under one lock, so that nobody waits long behind a batch.
constexpr size_t kHoldsPerLock = 128;
constexpr size_t kPinsPerLock = 1024;
constexpr size_t kKeysPerLock = 128;

// Of host memory and disk together, as far as uses are told apart.
constexpr uint64_t kSketchObjectBytes = 256 << 10;

uint64_t KeyHash(const FullKey& key) { return absl::Hash<FullKey>()(key); }

uint64_t SketchKeys(const tier::Tier& host, const std::optional<DiskOptions>& disk) {
  if (!disk.has_value()) return 0;
  return (host.capacity_bytes() + disk->log->Room().usable_bytes) / kSketchObjectBytes;
}

absl::Status CheckParent(const page::ObjectKey& key, std::string_view parent) {
  if (CanFollow(key, parent)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("parent block of ", parent.size(), " bytes for a key of ", key.bytes().size(),
                   "; allowed: another block of 4 to 59 bytes, for a key of at least 8"));
}

}  // namespace

PageStoreImpl::PageStoreImpl(tier::HostTier* host, const PageStoreOptions& options,
                             std::unique_ptr<EvictionPolicy> host_policy,
                             std::unique_ptr<EvictionPolicy> disk_policy, const base::Clock* clock)
    : host_(host),
      options_(options),
      clock_(clock),
      index_(std::move(host_policy), std::move(disk_policy)),
      misses_(options.evicted_memory),
      uses_(SketchKeys(*host, options.disk)) {
  if (!has_disk()) return;
  LogJournalOptions journal;
  if (options.disk->durability == Durability::kNvmeSync) journal.sync = tier::Sync::kYes;
  journal.max_share = options.disk->notes_share;
  journal_ = std::make_unique<LogJournal>(options.disk->log, journal);
  staging_ = std::make_unique<Staging>(options.disk->staging);
  disk_usable_ = true;
  disk_writes_ = true;
}

// ---- writing

absl::Status PageStoreImpl::Validate(const ObjectMeta& meta) const {
  if (meta.bytes == 0 || meta.bytes > options_.max_object_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("object of ", meta.bytes, " bytes, allowed: 1..", options_.max_object_bytes));
  }
  const page::ObjectLayout& layout = meta.layout;
  if (layout.num_kv_heads == 0 ? layout.part_bytes != 0 : layout.object_bytes() != meta.bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "layout of ", layout.num_kv_heads, " KV heads with parts of ", layout.part_bytes,
        " bytes is ", layout.object_bytes(), " bytes, the object has ", meta.bytes,
        "; allowed: equal, or no heads and no part bytes for an opaque object"));
  }
  if (page::CodecByName(meta.codec) == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown codec ", base::Quoted(meta.codec), ", known: ", page::CodecNames()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<PutHandle>> PageStoreImpl::Reserve(NamespaceId ns,
                                                                  const page::ObjectKey& key,
                                                                  const ObjectMeta& meta,
                                                                  std::string_view parent) {
  if (key.bytes().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("key is empty, allowed: ", page::ObjectKey::kMinBytes, "..",
                     page::ObjectKey::kMaxBytes, " bytes"));
  }
  VARVE_RETURN_IF_ERROR(Validate(meta));
  if (!parent.empty()) VARVE_RETURN_IF_ERROR(CheckParent(key, parent));
  auto object = std::make_unique<Object>();
  object->key = FullKey{ns, key};
  object->meta = meta;
  {
    base::MutexLock lock(mutex_);
    if (Object* stored = FindLocked(object->key)) {
      index_.Prolong(stored, meta.expires);
      return absl::AlreadyExistsError("the object is stored already");
    }
    // From now on, so that it does not get the room of what it follows.
    if (!parent.empty()) index_.Expect(object.get(), parent);
  }
  absl::StatusOr<tier::Slot> slot = ReserveSlot(meta.bytes, !parent.empty());
  if (!slot.ok()) {
    base::MutexLock lock(mutex_);
    index_.Abandon(object.get());
    return slot.status();
  }
  object->slot = *slot;
  return MakePutHandle(this, std::move(object));
}

absl::Status PageStoreImpl::Commit(std::unique_ptr<Object>& reserved, PutHandle::CommitDone& done) {
  bool wait = false;
  absl::Status now;
  std::vector<Left> left;
  {
    base::MutexLock lock(mutex_);
    if (Object* stored = FindLocked(reserved->key)) {
      index_.Prolong(stored, reserved->meta.expires);
      return absl::AlreadyExistsError("another writer stored the object first");
    }
    Object* object = index_.Publish(reserved, clock_->Now());
    NoteIfBeyondLocked(*object);
    misses_.Forget(object->identity);
    if (has_disk() && options_.disk->durability != Durability::kMemory) {
      const bool sync = options_.disk->durability == Durability::kNvmeSync;
      wait = sync && !no_waiting_;
      if (sync && no_waiting_) now = absl::UnavailableError("the store is ending");
      if (wait) AwaitWrittenLocked(object, std::move(done));
      object->put_waits = wait;
      QueueWriteLocked(object, /*demote=*/false);
      PumpWritesLocked(left);
    }
  }
  ReportLeft(left);
  if (!wait) std::move(done)(std::move(now));
  return absl::OkStatus();
}

void PageStoreImpl::Abandon(std::unique_ptr<Object> reserved) {
  {
    base::MutexLock lock(mutex_);
    index_.Abandon(reserved.get());
    host_->Free(reserved->slot);
  }
  WakeRoomWaiters();
}

void PageStoreImpl::AwaitDurable(NamespaceId ns, const page::ObjectKey& key,
                                 PutHandle::CommitDone done) {
  std::vector<Left> left;
  absl::Status status;
  if (has_disk() && options_.disk->durability == Durability::kNvmeSync) {
    base::MutexLock lock(mutex_);
    Object* object = index_.Find(FullKey{ns, key});
    if (object != nullptr && object->record == 0 && !no_waiting_) {
      AwaitWrittenLocked(object, std::move(done));
      // It may have been evicted from the disk, or its write has failed.
      if (!object->writing) QueueWriteLocked(object, /*demote=*/false);
      PumpWritesLocked(left);
    } else if (object != nullptr && object->record == 0) {
      status = absl::UnavailableError("the store is ending");
    }
  }
  ReportLeft(left);
  if (done) std::move(done)(std::move(status));
}

// ---- reading

std::unique_ptr<GetHandle> PageStoreImpl::Acquire(NamespaceId ns, const page::ObjectKey& key,
                                                  Miss* miss) {
  const FullKey full{ns, key};
  Object* object = nullptr;
  tier::Slot slot;
  {
    base::MutexLock lock(mutex_);
    object = FindLocked(full);
    if (object != nullptr) {
      index_.Open(object, clock_->Now());
      slot = ReadableSlot(*object);
      if (has_disk()) {
        uses_.Add(object->identity);
        if (object->slot.bytes == 0) QueuePromotionLocked(object, MoveCause::kPromote);
      }
    } else if (miss != nullptr) {
      miss->reason = misses_.Find(KeyHash(full)).value_or(MissReason::kNeverStored);
    }
  }
  if (object == nullptr) return nullptr;
  return MakeGetHandle(this, object,
                       slot.bytes > 0 ? host_->Map(slot) : std::span<const std::byte>());
}

std::vector<std::unique_ptr<GetHandle>> PageStoreImpl::Peek(NamespaceId ns,
                                                            std::span<const page::ObjectKey> keys) {
  struct Found {
    Object* object;
    tier::Slot slot;
  };
  std::vector<std::unique_ptr<GetHandle>> handles(keys.size());
  std::vector<Found> found(std::min(keys.size(), kKeysPerLock));
  for (size_t first = 0; first < keys.size(); first += kKeysPerLock) {
    const size_t count = std::min(kKeysPerLock, keys.size() - first);
    {
      base::MutexLock lock(mutex_);
      for (size_t i = 0; i < count; ++i) {
        found[i] = {index_.Find(FullKey{ns, keys[first + i]}), {}};
        if (found[i].object == nullptr) continue;
        found[i].slot = ReadableSlot(*found[i].object);
        if (found[i].slot.bytes > 0) index_.OpenUnused(found[i].object);
      }
    }
    for (size_t i = 0; i < count; ++i) {
      if (found[i].slot.bytes == 0) continue;
      handles[first + i] = MakeGetHandle(this, found[i].object, host_->Map(found[i].slot));
    }
  }
  return handles;
}

void PageStoreImpl::CloseAll(std::vector<std::unique_ptr<GetHandle>> handles) {
  for (size_t first = 0; first < handles.size(); first += kKeysPerLock) {
    const size_t end = std::min(handles.size(), first + kKeysPerLock);
    base::MutexLock lock(mutex_);
    for (size_t i = first; i < end; ++i) {
      if (handles[i] != nullptr) CloseLocked(TakeObject(*handles[i]));
    }
  }
  WakeRoomWaiters();
}

std::unique_ptr<GetHandle> PageStoreImpl::AcquireAgain(NamespaceId ns, const page::ObjectKey& key) {
  Object* object = nullptr;
  tier::Slot slot;
  {
    base::MutexLock lock(mutex_);
    object = index_.Find(FullKey{ns, key});
    if (object == nullptr) return nullptr;
    index_.OpenUnused(object);
    slot = ReadableSlot(*object);
  }
  return MakeGetHandle(this, object,
                       slot.bytes > 0 ? host_->Map(slot) : std::span<const std::byte>());
}

void PageStoreImpl::FreeSlotLocked(const tier::Slot& slot) {
  if (slot.bytes > 0) host_->Free(slot);
}

void PageStoreImpl::FreeLocked(const ObjectIndex::Freed& freed) {
  FreeSlotLocked(freed.slot);
  if (freed.record != 0) EraseLocked(std::span(&freed.record, 1));
}

void PageStoreImpl::CloseLocked(Object* object) {
  const bool leaves_host = object->host_damaged && object->handles == 1;
  if (leaves_host && object->state == ObjectState::kResident) {
    index_.Close(object);
    object->host_damaged = false;
    return FreeLocked(index_.LeaveTier(object, TierId::kHost));
  }
  if (const std::optional<tier::Slot> slot = index_.Close(object)) FreeSlotLocked(*slot);
}

void PageStoreImpl::Close(Object* object) {
  {
    base::MutexLock lock(mutex_);
    CloseLocked(object);
  }
  WakeRoomWaiters();
}

void PageStoreImpl::DropCorrupt(Object* object, TierId tier) {
  {
    base::MutexLock lock(mutex_);
    // Another reader may have found it first.
    if (object->state == ObjectState::kGone || (tier == TierId::kHost && object->host_damaged))
      return;
    ++checksum_failures_[tier];
    DropCopyLocked(object, tier, MissReason::kCorrupt);
  }
  base::LogError("dropped ", tier == TierId::kHost ? "from host memory" : "from disk", " object ",
                 object->key.key.ToHex(), ": its bytes do not match its checksum");
}

void PageStoreImpl::DropCopyLocked(Object* object, TierId tier, MissReason reason) {
  const bool in_host = object->slot.bytes > 0 && !object->host_damaged;
  if (tier == TierId::kHost && object->record != 0) {
    object->host_damaged = true;  // who reads it has a handle
  } else if (tier == TierId::kNvme && in_host) {
    if (object->record != 0) FreeLocked(index_.LeaveTier(object, tier));
  } else {
    misses_.Remember(object->identity, reason);
    FreeLocked(index_.Drop(object));
  }
}

bool PageStoreImpl::Exists(NamespaceId ns, const page::ObjectKey& key) const {
  base::MutexLock lock(mutex_);
  const Object* object = index_.Find(FullKey{ns, key});
  return object != nullptr && !object->expired(clock_->Now());
}

// ---- pins and holds

bool PageStoreImpl::Pin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner,
                        absl::Duration ttl) {
  if (ttl <= absl::ZeroDuration()) return false;
  base::MutexLock lock(mutex_);
  const absl::Time now = clock_->Now();
  index_.ExpirePins(now);
  Object* object = FindLocked(FullKey{ns, key});
  if (object == nullptr) return false;
  index_.Pin(object, owner, now + ttl);
  return true;
}

bool PageStoreImpl::Unpin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner) {
  base::MutexLock lock(mutex_);
  index_.ExpirePins(clock_->Now());
  Object* object = index_.Find(FullKey{ns, key});
  return object != nullptr && index_.Unpin(object, owner);
}

void PageStoreImpl::UnpinAll(uint64_t owner) {
  for (bool more = true; more;) {
    base::MutexLock lock(mutex_);
    more = index_.UnpinSome(owner, kPinsPerLock);
  }
}

void PageStoreImpl::Hold(NamespaceId ns, std::span<const std::string> block_hashes) {
  while (!block_hashes.empty()) {
    const size_t count = std::min(kHoldsPerLock, block_hashes.size());
    base::MutexLock lock(mutex_);
    for (const std::string& hash : block_hashes.first(count)) index_.Hold(ns, hash);
    block_hashes = block_hashes.subspan(count);
  }
}

void PageStoreImpl::Release(NamespaceId ns, std::span<const std::string> block_hashes) {
  while (!block_hashes.empty()) {
    // From the last: what is let go last leaves last, and a prefix must not lose its head first.
    const size_t count = std::min(kHoldsPerLock, block_hashes.size());
    const auto last = block_hashes.last(count);
    base::MutexLock lock(mutex_);
    for (size_t i = count; i-- > 0;) index_.Release(ns, last[i]);
    block_hashes = block_hashes.first(block_hashes.size() - count);
  }
}

// ---- looking

absl::StatusOr<NamespaceId> PageStoreImpl::InternNamespace(std::string_view name) {
  base::MutexLock lock(mutex_);
  if (namespaces_.size() >= options_.max_namespaces && !namespaces_.contains(std::string(name))) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the store has seen ", namespaces_.size(),
                     " namespaces since it started, and allows no more; use one of them"));
  }
  const auto next = static_cast<NamespaceId>(namespaces_.size() + 1);
  const auto [found, is_new] = namespaces_.try_emplace(std::string(name), next);
  if (is_new) namespace_names_.emplace_back(name);
  return found->second;
}

std::string PageStoreImpl::NamespaceName(NamespaceId ns) const {
  base::MutexLock lock(mutex_);
  return namespace_names_.at(ns - 1);
}

std::vector<std::string> PageStoreImpl::ListNamespaces(NamespaceId first, size_t limit) const {
  base::MutexLock lock(mutex_);
  const size_t begin = std::min<size_t>(first - 1, namespace_names_.size());
  const size_t count = std::min(limit, namespace_names_.size() - begin);
  const auto from = namespace_names_.begin() + static_cast<ptrdiff_t>(begin);
  return {from, from + static_cast<ptrdiff_t>(count)};
}

std::vector<ObjectRow> PageStoreImpl::List(NamespaceId ns, std::string_view prefix,
                                           std::string_view after, size_t limit) const {
  std::vector<ObjectRow> rows;
  rows.reserve(std::min(limit, kRowsPerLock));
  std::string from(after);
  const absl::Time now = clock_->Now();
  for (bool more = true; more && rows.size() < limit;) {
    size_t looked = 0;
    const Object* last = nullptr;
    base::MutexLock lock(mutex_);
    index_.ExpirePins(now);
    index_.Scan(ns, prefix, from, [&](const Object& object) {
      if (looked == kRowsPerLock || rows.size() == limit) return false;
      ++looked;
      last = &object;
      if (object.expired(now)) return true;
      rows.push_back({.key = object.key.key,
                      .meta = object.meta,
                      .tier = object.tier(),
                      .on_disk = object.record != 0,
                      .pins = object.pin_count(),
                      .crc32c = object.checksums.whole_crc32c,
                      .idle = now - object.last_use});
      return true;
    });
    more = looked == kRowsPerLock;
    if (more) from = last->key.key.bytes();
  }
  return rows;
}

PageStoreUsage PageStoreImpl::Usage() const {
  PageStoreUsage usage;
  base::MutexLock lock(mutex_);
  index_.ExpirePins(clock_->Now());
  usage.host = host_->Usage();
  usage.objects = index_.objects();
  usage.object_bytes = index_.object_bytes();
  usage.host_objects = index_.tier_objects(TierId::kHost);
  usage.pinned_bytes = index_.guarded_bytes(TierId::kHost);
  usage.eviction = eviction_[TierId::kHost];
  usage.checksum_failures = checksum_failures_[TierId::kHost];
  if (!has_disk()) return usage;
  usage.disk = PageStoreUsage::Disk{.log = log().Usage(),
                                    .objects = index_.tier_objects(TierId::kNvme),
                                    .pinned_bytes = index_.guarded_bytes(TierId::kNvme),
                                    .eviction = eviction_[TierId::kNvme],
                                    .checksum_failures = checksum_failures_[TierId::kNvme],
                                    .queued_objects = queued_objects_,
                                    .queued_bytes = queued_bytes_,
                                    .promoting_objects = promotions_.size() + promotions_reading_,
                                    .read_errors = read_errors_,
                                    .write_errors = write_errors_,
                                    .lost_notes = journal_->lost_notes(),
                                    .note_bytes = journal_->GetRoom().used_bytes,
                                    .recovered_objects = recovered_objects_,
                                    .recovery_seconds = recovery_seconds_};
  return usage;
}

// ---- making one

namespace {

// Written so that NaN fails too.
absl::Status CheckWatermarks(const char* tier, double low, double high) {
  if (low > 0 && low <= high && high <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("watermarks of the ", tier, " tier are low ", low,
                                                 " and high ", high,
                                                 ", allowed: 0 < low <= high <= 1"));
}

absl::Status CheckOptions(const PageStoreOptions& options) {
  VARVE_RETURN_IF_ERROR(CheckWatermarks("host", options.low_watermark, options.high_watermark));
  if (options.max_object_bytes == 0) {
    return absl::InvalidArgumentError("max_object_bytes is 0, allowed: at least 1");
  }
  if (!options.disk.has_value()) return absl::OkStatus();
  const DiskOptions& disk = *options.disk;
  VARVE_RETURN_IF_ERROR(CheckWatermarks("nvme", disk.low_watermark, disk.high_watermark));
  // What is read begins and ends at multiples of the alignment.
  const uint64_t needed = options.max_object_bytes + 2 * tier::kReadAlignment;
  if (disk.staging->capacity_bytes() < needed) {
    return absl::InvalidArgumentError(
        absl::StrCat("staging memory of ", disk.staging->capacity_bytes(),
                     " bytes, allowed: at least ", needed, " for the largest object"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageStore>> PageStore::Create(tier::HostTier* host,
                                                             const PageStoreOptions& options,
                                                             const base::Clock* clock) {
  VARVE_ASSIGN_OR_RETURN(const EvictionPolicyRow* row, EvictionPolicies().Find(options.eviction));
  VARVE_RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<EvictionPolicy> disk_policy;
  if (options.disk.has_value()) {
    VARVE_ASSIGN_OR_RETURN(const EvictionPolicyRow* disk_row,
                           EvictionPolicies().Find(options.disk->eviction));
    disk_policy = disk_row->create();
  }
  auto store =
      std::make_unique<PageStoreImpl>(host, options, row->create(), std::move(disk_policy), clock);
  if (options.disk.has_value()) {
    VARVE_RETURN_IF_ERROR(store->Recover());
    // The directories may be smaller than they were: without room notes could not be written
    // either.
    store->FitDisk();
  }
  return store;
}

}  // namespace varve::store
