// Making room in host memory: demotion where there is a disk, eviction where there is none.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/store/page_store_impl.h"

namespace varve::store {
namespace {

// How much is done under one lock, so that nobody waits long behind a batch.
constexpr uint32_t kEvictionSteps = 256;
constexpr uint32_t kExpirySteps = 256;

}  // namespace

absl::StatusOr<tier::Slot> PageStoreImpl::ReserveSlot(uint64_t bytes, bool continues) {
  for (;;) {
    absl::StatusOr<tier::Slot> slot = host_->Reserve(bytes);
    const tier::TierUsage usage = host_->Usage();
    if (slot.ok()) {
      if (usage.used_bytes > high_bytes()) EvictTo(low_bytes());
      return slot;
    }
    if (!absl::IsResourceExhausted(slot.status())) return slot;
    {
      // What eviction cannot make possible must not cost the cache its content.
      base::MutexLock lock(mutex_);
      index_.ExpirePins(clock_->Now());
      const uint64_t evictable =
          index_.tier_bytes(TierId::kHost) - index_.guarded_bytes(TierId::kHost);
      if (evictable == 0 || evictable + usage.free_bytes < bytes) return NoRoomLocked(bytes);
    }
    if (EvictTo(std::min(low_bytes(), host_->capacity_bytes() - bytes)) == 0) {
      return ReserveWindow(bytes, continues);
    }
  }
}

absl::StatusOr<tier::Slot> PageStoreImpl::ReserveWindow(uint64_t bytes, bool continues) {
  std::vector<Left> left;
  absl::StatusOr<tier::Slot> slot = ReserveWindow(bytes, continues, left);
  ReportLeft(left);
  return slot;
}

absl::StatusOr<tier::Slot> PageStoreImpl::ReserveWindow(uint64_t bytes, bool continues,
                                                        std::vector<Left>& left) {
  base::MutexLock lock(mutex_);
  // Again only when another writer takes one of the holes meanwhile.
  for (;;) {
    absl::StatusOr<tier::Slot> slot = host_->Reserve(bytes);
    if (slot.ok()) return slot;
    // What is on its way to disk leaves holes soon.
    if (demoting_bytes_ > 0) return NoRoomLocked(bytes);
    if (continues && index_.all_wait(TierId::kHost)) return NoRoomLocked(bytes);
    std::vector<Piece> pieces;
    std::span<const Piece> window = WindowLocked(bytes, /*any=*/false, pieces);
    // What continues a prompt gets no room of that, but for the holes' sake: then what follows
    // nobody is spread over the memory.
    const bool any =
        !continues || std::any_of(pieces.begin(), pieces.end(),
                                  [](const Piece& piece) { return piece.object != nullptr; });
    if (window.empty() && any) window = WindowLocked(bytes, /*any=*/true, pieces);
    if (window.empty()) return NoRoomLocked(bytes);
    for (const Piece& piece : window) {
      if (piece.object != nullptr) EvictFromHostLocked(piece.object, left);
    }
    PumpWritesLocked(left);
  }
}

std::span<const Piece> PageStoreImpl::WindowLocked(uint64_t bytes, bool any,
                                                   std::vector<Piece>& pieces) const {
  pieces.clear();
  for (const tier::Tier::Extent& hole : host_->Holes()) {
    pieces.push_back({hole.offset, hole.bytes, nullptr});
  }
  std::vector<Object*> objects;
  index_.ForEachEvictable(TierId::kHost, [&](Object& object) { objects.push_back(&object); });
  for (Object* object : objects) {
    if (object->slot.offset + object->slot.extent_bytes > host_->capacity_bytes()) continue;
    if (!any && index_.followed(*object, TierId::kHost)) continue;
    pieces.push_back({object->slot.offset, object->slot.extent_bytes, object});
  }
  return CheapestWindow(pieces, bytes);
}

absl::Status PageStoreImpl::NoRoomLocked(uint64_t bytes) const {
  const tier::TierUsage usage = host_->Usage();
  // What waits for the disk keeps its memory until it is there.
  if (disk_usable_ && queued_bytes_ > 0 && !no_waiting_) {
    return absl::UnavailableError(absl::StrCat("no room yet for ", bytes, " bytes: ", queued_bytes_,
                                               " bytes are on their way to disk"));
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "no room for ", bytes, " bytes: of ", usage.capacity_bytes, " bytes ", usage.used_bytes,
      " are used, ", index_.guarded_bytes(TierId::kHost),
      " of them by objects that are pinned, held by an attached context or being read; the "
      "largest hole has ",
      usage.largest_free_bytes, " bytes"));
}

// ---- leaving

void PageStoreImpl::CountLeftLocked(const Object& object, TierId tier, std::vector<Left>& left) {
  EvictionCounters& counters = eviction_[tier];
  ++counters.evicted_objects;
  counters.evicted_bytes += object.meta.bytes;
  counters.last_evicted_idle_seconds = absl::ToDoubleSeconds(clock_->Now() - object.last_use);
  left.push_back({tier, object.meta.bytes, object.last_use});
}

void PageStoreImpl::EvictLocked(Object* object, TierId tier, std::vector<Left>& left) {
  eviction_[tier].cut_objects += ObjectIndex::continued(*object) ? 1 : 0;
  DropEvictedLocked(object, tier, left);
}

void PageStoreImpl::DropEvictedLocked(Object* object, TierId tier, std::vector<Left>& left) {
  CountLeftLocked(*object, tier, left);
  misses_.Remember(object->identity, MissReason::kEvicted);
  FreeLocked(index_.Drop(object));
}

// ---- expiry

Object* PageStoreImpl::FindLocked(const FullKey& key) {
  Object* object = index_.Find(key);
  if (object == nullptr || object->meta.expires == absl::InfiniteFuture()) return object;
  const absl::Time now = clock_->Now();
  index_.ExpirePins(now);
  if (!object->expired(now)) return object;
  ExpireLocked(object);
  return nullptr;
}

void PageStoreImpl::ExpireLocked(Object* object) {
  misses_.Remember(object->identity, MissReason::kExpired);
  FreeLocked(index_.Drop(object));
}

void PageStoreImpl::ExpireObjects() {
  bool any = false;
  for (bool more = true; more;) {
    base::MutexLock lock(mutex_);
    const absl::Time now = clock_->Now();
    index_.ExpirePins(now);
    uint32_t steps = kExpirySteps;
    Object* object = nullptr;
    while ((object = index_.NextExpired(now, steps)) != nullptr) {
      ExpireLocked(object);
      --steps;
      any = true;
    }
    more = steps == 0;
  }
  if (any) WakeRoomWaiters();
}

// ---- eviction

void PageStoreImpl::EvictFromHostLocked(Object* object, std::vector<Left>& left) {
  if (object->record != 0) {
    FreeLocked(index_.LeaveTier(object, TierId::kHost));
  } else if (disk_usable_) {
    QueueWriteLocked(object, /*demote=*/true);
  } else {
    EvictLocked(object, TierId::kHost, left);
  }
}

bool PageStoreImpl::EvictSome(uint64_t used_bytes, std::vector<Left>& left) {
  base::MutexLock lock(mutex_);
  index_.ExpirePins(clock_->Now());
  uint32_t steps = kEvictionSteps;
  Object* victim = nullptr;
  // Looked up each time: others evict, and give space back, too.
  while (host_->Usage().used_bytes > used_bytes + demoting_bytes_) {
    victim = index_.NextVictim(TierId::kHost, steps);
    if (victim == nullptr) break;
    if (victim->record == 0 && disk_usable_) index_.KeepVictim(victim, TierId::kHost);
    EvictFromHostLocked(victim, left);
  }
  PumpWritesLocked(left);
  return victim == nullptr && steps == 0;
}

size_t PageStoreImpl::EvictTo(uint64_t used_bytes) {
  const uint64_t before = host_->Usage().slots;
  for (bool more = true; more;) {
    std::vector<Left> left;
    more = EvictSome(used_bytes, left);
    ReportLeft(left);
  }
  const uint64_t after = host_->Usage().slots;
  return before > after ? before - after : 0;
}

void PageStoreImpl::ReportLeft(const std::vector<Left>& left) const {
  if (!options_.on_evicted) return;
  const absl::Time now = clock_->Now();
  for (const Left& l : left) {
    options_.on_evicted(l.tier, l.bytes, absl::ToDoubleSeconds(now - l.last_use));
  }
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
    std::vector<Left> left;
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
        // That it is being written is no reason to keep it.
        const uint32_t own_handles = object->writing ? 1 : 0;
        if (object->handles == own_handles && object->pins.empty() && !object->held()) {
          DropEvictedLocked(object, object->tier(), left);
        } else {
          ++matching.kept;
        }
      }
    }
    for (const Left& l : left) matching.bytes += l.bytes;
    matching.objects += left.size();
  }
  WakeRoomWaiters();
  return matching;
}

// ---- waiting for it

void PageStoreImpl::AwaitRoom(uint64_t bytes, absl::Time deadline, base::Task done) {
  {
    base::MutexLock lock(mutex_);
    if (queued_bytes_ > 0 && !no_waiting_ && clock_->Now() < deadline) {
      room_waiters_.emplace(deadline, RoomWaiter{bytes, std::move(done)});
      room_awaited_.store(true);
      return;
    }
  }
  std::move(done)();
}

void PageStoreImpl::WakeRoomWaiters() {
  if (!room_awaited_.load()) return;
  std::vector<base::Task> woken;
  {
    base::MutexLock lock(mutex_);
    // Without anything on its way there is nothing to wait for, room or not.
    const bool all = queued_bytes_ == 0 || !disk_usable_ || no_waiting_ || stopping_;
    const absl::Time now = clock_->Now();
    uint64_t room = host_->Usage().free_bytes;
    for (auto first = room_waiters_.begin(); first != room_waiters_.end();) {
      auto& [deadline, waiter] = *first;
      // The first one looks each time: evicting what is on disk by now may make its room.
      if (!all && now < deadline && waiter.bytes > room && !woken.empty()) break;
      room -= std::min(room, waiter.bytes);
      woken.push_back(std::move(waiter.done));
      first = room_waiters_.erase(first);
    }
    room_awaited_.store(!room_waiters_.empty());
  }
  for (base::Task& done : woken) std::move(done)();
}

}  // namespace varve::store
