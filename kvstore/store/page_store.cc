#include "kvstore/store/page_store.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/status.h"
#include "kvstore/page/codec/codec.h"
#include "kvstore/store/eviction_policy.h"
#include "kvstore/store/miss_memory.h"
#include "kvstore/store/object_index.h"
#include "kvstore/store/page_handles.h"
#include "kvstore/store/window.h"

namespace varve::store {
namespace {

// How much is done under one lock, so that nobody waits long behind a batch.
constexpr uint32_t kEvictionSteps = 256;
constexpr size_t kHoldsPerLock = 128;
constexpr size_t kPinsPerLock = 1024;
constexpr size_t kRowsPerLock = 256;

uint64_t KeyHash(const FullKey& key) { return absl::Hash<FullKey>()(key); }

class PageStoreImpl final : public PageStore, private HandleOwner {
 public:
  PageStoreImpl(tier::Tier* host, const PageStoreOptions& options,
                std::unique_ptr<EvictionPolicy> policy, const base::Clock* clock)
      : host_(host),
        options_(options),
        clock_(clock),
        low_bytes_(static_cast<uint64_t>(options.low_watermark *
                                         static_cast<double>(host->capacity_bytes()))),
        high_bytes_(static_cast<uint64_t>(options.high_watermark *
                                          static_cast<double>(host->capacity_bytes()))),
        index_(std::move(policy)),
        misses_(options.evicted_memory) {}

  absl::StatusOr<NamespaceId> InternNamespace(std::string_view name) override;
  absl::StatusOr<std::unique_ptr<PutHandle>> Reserve(NamespaceId ns, const page::ObjectKey& key,
                                                     const ObjectMeta& meta) override;
  std::unique_ptr<GetHandle> Acquire(NamespaceId ns, const page::ObjectKey& key,
                                     Miss* miss) override;
  bool Exists(NamespaceId ns, const page::ObjectKey& key) const override;
  bool Remove(NamespaceId ns, const page::ObjectKey& key, bool force) override;
  bool Pin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner, absl::Duration ttl) override;
  bool Unpin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner) override;
  void UnpinAll(uint64_t owner) override;
  void Hold(NamespaceId ns, std::span<const std::string> block_hashes) override;
  void Release(NamespaceId ns, std::span<const std::string> block_hashes) override;
  std::vector<ObjectRow> List(NamespaceId ns, std::string_view prefix, std::string_view after,
                              size_t limit) const override;
  absl::StatusOr<EvictedMatching> EvictMatching(std::string_view ns_name,
                                                std::string_view prefix) override;
  PageStoreUsage Usage() const override;

 private:
  // ---- HandleOwner
  absl::Status Commit(std::unique_ptr<Object>& reserved) override;
  void Abandon(const tier::Slot& slot) override { host_->Free(slot); }
  std::span<std::byte> Map(const Object& object) override { return host_->Map(object.slot); }
  void Close(Object* object) override;
  void DropCorrupt(Object* object) override;

  absl::Status Validate(const ObjectMeta& meta) const;
  absl::StatusOr<tier::Slot> ReserveSlot(uint64_t bytes);
  // For what fits no hole: evicts the least that makes one, or nothing. O(objects) under the lock.
  absl::StatusOr<tier::Slot> ReserveWindow(uint64_t bytes);
  absl::StatusOr<tier::Slot> ReserveWindow(uint64_t bytes,
                                           std::vector<ObjectIndex::Evicted>& evicted);
  // Evicts until no more than used_bytes of the tier are used; answers how many objects.
  size_t EvictTo(uint64_t used_bytes);
  // True: there is more to do.
  bool EvictSome(uint64_t used_bytes, std::vector<ObjectIndex::Evicted>& evicted);
  void FreeEvictedLocked(const ObjectIndex::Evicted& victim,
                         std::vector<ObjectIndex::Evicted>& evicted)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReportEvicted(const std::vector<ObjectIndex::Evicted>& evicted) const;
  absl::Status NoRoomLocked(uint64_t bytes) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  tier::Tier* const host_;
  const PageStoreOptions options_;
  const base::Clock* const clock_;
  const uint64_t low_bytes_;
  const uint64_t high_bytes_;

  // The tier's own lock is taken inside this one, never the other way round.
  mutable base::Mutex mutex_;
  mutable ObjectIndex index_ ABSL_GUARDED_BY(mutex_);  // soft pins expire when somebody looks
  MissMemory misses_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, NamespaceId> namespaces_ ABSL_GUARDED_BY(mutex_);
  EvictionCounters eviction_ ABSL_GUARDED_BY(mutex_);
  uint64_t checksum_failures_ ABSL_GUARDED_BY(mutex_) = 0;
};

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
                                                                  const ObjectMeta& meta) {
  if (key.bytes().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("key is empty, allowed: ", page::ObjectKey::kMinBytes, "..",
                     page::ObjectKey::kMaxBytes, " bytes"));
  }
  VARVE_RETURN_IF_ERROR(Validate(meta));
  if (Exists(ns, key)) return absl::AlreadyExistsError("the object is stored already");
  auto object = std::make_unique<Object>();
  object->key = FullKey{ns, key};
  object->meta = meta;
  VARVE_ASSIGN_OR_RETURN(object->slot, ReserveSlot(meta.bytes));
  return MakePutHandle(this, std::move(object));
}

absl::StatusOr<tier::Slot> PageStoreImpl::ReserveSlot(uint64_t bytes) {
  for (;;) {
    absl::StatusOr<tier::Slot> slot = host_->Reserve(bytes);
    const uint64_t used = host_->Usage().used_bytes;
    if (slot.ok()) {
      if (used > high_bytes_) EvictTo(low_bytes_);
      return slot;
    }
    if (!absl::IsResourceExhausted(slot.status())) return slot;
    {
      // What eviction cannot make possible must not cost the cache its content.
      base::MutexLock lock(mutex_);
      index_.ExpirePins(clock_->Now());
      const uint64_t evictable = index_.slot_bytes() - index_.guarded_bytes();
      const uint64_t free = host_->capacity_bytes() - used;
      if (evictable == 0 || evictable + free < bytes) return NoRoomLocked(bytes);
    }
    if (EvictTo(std::min(low_bytes_, host_->capacity_bytes() - bytes)) == 0) {
      return ReserveWindow(bytes);
    }
  }
}

absl::StatusOr<tier::Slot> PageStoreImpl::ReserveWindow(uint64_t bytes) {
  std::vector<ObjectIndex::Evicted> evicted;
  absl::StatusOr<tier::Slot> slot = ReserveWindow(bytes, evicted);
  ReportEvicted(evicted);
  return slot;
}

absl::StatusOr<tier::Slot> PageStoreImpl::ReserveWindow(
    uint64_t bytes, std::vector<ObjectIndex::Evicted>& evicted) {
  base::MutexLock lock(mutex_);
  // Again only when another writer takes one of the holes meanwhile.
  for (;;) {
    absl::StatusOr<tier::Slot> slot = host_->Reserve(bytes);
    if (slot.ok()) return slot;
    std::vector<Piece> pieces;
    for (const tier::Tier::Extent& hole : host_->Holes()) {
      pieces.push_back({hole.offset, hole.bytes, nullptr});
    }
    index_.ForEachEvictable([&](Object& object) {
      pieces.push_back({object.slot.offset, object.slot.extent_bytes, &object});
    });
    const std::span<const Piece> window = CheapestWindow(pieces, bytes);
    if (window.empty()) return NoRoomLocked(bytes);
    for (const Piece& piece : window) {
      if (piece.object != nullptr) FreeEvictedLocked(index_.Evict(piece.object), evicted);
    }
  }
}

absl::Status PageStoreImpl::NoRoomLocked(uint64_t bytes) const {
  const tier::TierUsage usage = host_->Usage();
  return absl::ResourceExhaustedError(absl::StrCat(
      "no room for ", bytes, " bytes: of ", usage.capacity_bytes, " bytes ", usage.used_bytes,
      " are used, ", index_.guarded_bytes(),
      " of them by objects that are pinned, held by an attached context or being read; the "
      "largest hole has ",
      usage.largest_free_bytes, " bytes"));
}

void PageStoreImpl::FreeEvictedLocked(const ObjectIndex::Evicted& victim,
                                      std::vector<ObjectIndex::Evicted>& evicted) {
  // Freed under the lock: whoever then finds nothing to evict finds the room.
  host_->Free(victim.slot);
  misses_.Remember(victim.identity, MissReason::kEvicted);
  ++eviction_.evicted_objects;
  eviction_.evicted_bytes += victim.bytes;
  eviction_.last_evicted_idle_seconds = absl::ToDoubleSeconds(clock_->Now() - victim.last_use);
  evicted.push_back(victim);
}

void PageStoreImpl::ReportEvicted(const std::vector<ObjectIndex::Evicted>& evicted) const {
  if (!options_.on_evicted) return;
  const absl::Time now = clock_->Now();
  for (const ObjectIndex::Evicted& e : evicted) {
    options_.on_evicted(e.bytes, absl::ToDoubleSeconds(now - e.last_use));
  }
}

bool PageStoreImpl::EvictSome(uint64_t used_bytes, std::vector<ObjectIndex::Evicted>& evicted) {
  base::MutexLock lock(mutex_);
  index_.ExpirePins(clock_->Now());
  uint32_t steps = kEvictionSteps;
  // Looked up each time: others evict, and give space back, too.
  while (host_->Usage().used_bytes > used_bytes) {
    const std::optional<ObjectIndex::Evicted> victim = index_.EvictNext(steps);
    if (!victim.has_value()) return steps == 0;
    FreeEvictedLocked(*victim, evicted);
  }
  return false;
}

size_t PageStoreImpl::EvictTo(uint64_t used_bytes) {
  size_t count = 0;
  for (bool more = true; more;) {
    std::vector<ObjectIndex::Evicted> evicted;
    more = EvictSome(used_bytes, evicted);
    ReportEvicted(evicted);
    count += evicted.size();
  }
  return count;
}

absl::Status PageStoreImpl::Commit(std::unique_ptr<Object>& reserved) {
  base::MutexLock lock(mutex_);
  const Object* object = index_.Publish(reserved, clock_->Now());
  if (object == nullptr) return absl::AlreadyExistsError("another writer stored the object first");
  misses_.Forget(object->identity);
  return absl::OkStatus();
}

// ---- reading

std::unique_ptr<GetHandle> PageStoreImpl::Acquire(NamespaceId ns, const page::ObjectKey& key,
                                                  Miss* miss) {
  const FullKey full{ns, key};
  Object* object = nullptr;
  {
    base::MutexLock lock(mutex_);
    object = index_.Find(full);
    if (object != nullptr) {
      index_.Open(object, clock_->Now());
    } else if (miss != nullptr) {
      miss->reason = misses_.Find(KeyHash(full)).value_or(MissReason::kNeverStored);
    }
  }
  if (object == nullptr) return nullptr;
  return MakeGetHandle(this, object);
}

void PageStoreImpl::Close(Object* object) {
  std::optional<tier::Slot> slot;
  {
    base::MutexLock lock(mutex_);
    slot = index_.Close(object);
  }
  if (slot.has_value()) host_->Free(*slot);
}

void PageStoreImpl::DropCorrupt(Object* object) {
  {
    base::MutexLock lock(mutex_);
    // Another reader may have found it first.
    if (object->state == ObjectState::kGone) return;
    index_.Drop(object);
    misses_.Remember(object->identity, MissReason::kCorrupt);
    ++checksum_failures_;
  }
  base::LogError("dropped object ", object->key.key.ToHex(),
                 ": its bytes do not match its checksum");
}

bool PageStoreImpl::Exists(NamespaceId ns, const page::ObjectKey& key) const {
  base::MutexLock lock(mutex_);
  return index_.Find(FullKey{ns, key}) != nullptr;
}

bool PageStoreImpl::Remove(NamespaceId ns, const page::ObjectKey& key, bool force) {
  std::optional<tier::Slot> slot;
  {
    base::MutexLock lock(mutex_);
    index_.ExpirePins(clock_->Now());
    Object* object = index_.Find(FullKey{ns, key});
    if (object == nullptr) return false;
    const bool held = object->group != nullptr && object->group->holds > 0;
    if (!force && (held || !object->pins.empty())) return false;
    slot = index_.Drop(object);
  }
  if (slot.has_value()) host_->Free(*slot);
  return true;
}

// ---- pins and holds

bool PageStoreImpl::Pin(NamespaceId ns, const page::ObjectKey& key, uint64_t owner,
                        absl::Duration ttl) {
  if (ttl <= absl::ZeroDuration()) return false;
  base::MutexLock lock(mutex_);
  const absl::Time now = clock_->Now();
  index_.ExpirePins(now);
  Object* object = index_.Find(FullKey{ns, key});
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
    const size_t count = std::min(kHoldsPerLock, block_hashes.size());
    base::MutexLock lock(mutex_);
    for (const std::string& hash : block_hashes.first(count)) index_.Release(ns, hash);
    block_hashes = block_hashes.subspan(count);
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
  return namespaces_.try_emplace(std::string(name), next).first->second;
}

std::vector<ObjectRow> PageStoreImpl::List(NamespaceId ns, std::string_view prefix,
                                           std::string_view after, size_t limit) const {
  std::vector<ObjectRow> rows;
  rows.reserve(std::min(limit, kRowsPerLock));
  std::string from(after);
  for (bool more = true; more && rows.size() < limit;) {
    const size_t stop = std::min(limit, rows.size() + kRowsPerLock);
    base::MutexLock lock(mutex_);
    index_.Scan(ns, prefix, from, [&](const Object& object) {
      if (rows.size() == stop) return false;
      rows.push_back({object.key.key, object.meta, object.tier, object.pin_count(),
                      object.checksums.whole_crc32c});
      return true;
    });
    more = rows.size() == stop;
    if (more) from = rows.back().key.bytes();
  }
  return rows;
}

absl::StatusOr<EvictedMatching> PageStoreImpl::EvictMatching(std::string_view ns_name,
                                                             std::string_view prefix) {
  NamespaceId ns = 0;
  {
    base::MutexLock lock(mutex_);
    const auto found = namespaces_.find(std::string(ns_name));
    if (found == namespaces_.end()) {
      return absl::NotFoundError(
          absl::StrCat("no session has used the namespace ", base::Quoted(std::string(ns_name))));
    }
    ns = found->second;
  }
  EvictedMatching matching;
  std::string from;
  for (bool more = true; more;) {
    std::vector<ObjectIndex::Evicted> evicted;
    {
      base::MutexLock lock(mutex_);
      index_.ExpirePins(clock_->Now());
      std::vector<Object*> objects;
      index_.Scan(ns, prefix, from, [&](Object& object) {
        objects.push_back(&object);
        return objects.size() < kRowsPerLock;
      });
      more = objects.size() == kRowsPerLock;
      if (more) from = objects.back()->key.key.bytes();
      for (Object* object : objects) {
        if (object->state == ObjectState::kResident && !object->guarded()) {
          FreeEvictedLocked(index_.Evict(object), evicted);
        } else {
          ++matching.kept;
        }
      }
    }
    for (const ObjectIndex::Evicted& e : evicted) matching.bytes += e.bytes;
    matching.objects += evicted.size();
  }
  return matching;
}

PageStoreUsage PageStoreImpl::Usage() const {
  PageStoreUsage usage;
  base::MutexLock lock(mutex_);
  index_.ExpirePins(clock_->Now());
  usage.host = host_->Usage();
  usage.objects = index_.objects();
  usage.object_bytes = index_.object_bytes();
  usage.pinned_bytes = index_.guarded_bytes();
  usage.eviction = eviction_;
  usage.checksum_failures = checksum_failures_;
  return usage;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageStore>> PageStore::Create(tier::Tier* host,
                                                             const PageStoreOptions& options,
                                                             const base::Clock* clock) {
  VARVE_ASSIGN_OR_RETURN(const EvictionPolicyRow* row, EvictionPolicies().Find(options.eviction));
  // Written so that NaN fails too.
  if (!(options.low_watermark > 0 && options.low_watermark <= options.high_watermark &&
        options.high_watermark <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("watermarks are low ", options.low_watermark,
                                                   " and high ", options.high_watermark,
                                                   ", allowed: 0 < low <= high <= 1"));
  }
  if (options.max_object_bytes == 0) {
    return absl::InvalidArgumentError("max_object_bytes is 0, allowed: at least 1");
  }
  return std::make_unique<PageStoreImpl>(host, options, row->create(), clock);
}

}  // namespace varve::store
