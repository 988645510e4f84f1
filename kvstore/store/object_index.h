// The states of objects, who keeps them, and where keys lead. A state machine without locks, clocks
// or bytes.
//
//   Reserved --Publish--> Resident --BeginMove--> Moving --EndMove--> Resident
//                            |                       |
//                            +--------- Drop --------+----> gone (destroyed with its last handle)
//
// A Reserved object belongs to its writer (unique_ptr) and is in no table, so that nothing
// half-written can be found; Publish takes it over or, when the key is there already, leaves it
// with the writer. Every other transition is checked and refused by its return value.
//
// Kept from eviction ("guarded") is an object with an open handle, a pin, or a hold on its group.
// Guarded objects are taken out of the eviction policy lazily, when they come up as victims, and go
// back when the last guard falls; so a hold on a group costs O(1) whatever the group's size.
// Groups: all keys that differ only in their last 4 bytes; keys shorter than 8 bytes have none.
//
// Not thread-safe; the page store locks. Look-ups O(1), the ordered index O(log n).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "kvstore/store/eviction_policy.h"
#include "kvstore/store/granules.h"
#include "kvstore/store/page_store.h"

namespace varve::store {

struct FullKey {
  NamespaceId ns = 0;
  page::ObjectKey key;

  friend bool operator==(const FullKey&, const FullKey&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const FullKey& k) {
    return H::combine(std::move(h), k.ns, k.key);
  }
};

enum class ObjectState : uint8_t { kReserved, kResident, kMoving, kGone };

struct OwnerPin {
  uint64_t owner = 0;
  uint32_t hard = 0;                             // until unpinned
  absl::Time soft_until = absl::InfinitePast();  // InfinitePast: no soft pin

  uint32_t count() const { return hard + (soft_until != absl::InfinitePast() ? 1 : 0); }
};

struct Object;

struct ObjectGroup {
  uint32_t objects = 0;
  uint32_t holds = 0;
  uint64_t unguarded_bytes = 0;  // slots of members without handles and pins of their own
  std::vector<Object*> parked;   // members that are out of the policy
};

// Fields of the first part never change once published, so a handle reads them without a lock;
// `slot` and `tier` change only while no handle is open.
struct Object : EvictionNode {
  FullKey key;
  ObjectMeta meta;
  GranuleChecksums checksums;
  tier::Slot slot;
  TierId tier = TierId::kHost;

  // The index's own.
  ObjectState state = ObjectState::kReserved;
  uint32_t handles = 0;
  std::vector<OwnerPin> pins;
  ObjectGroup* group = nullptr;
  bool parked = false;
  uint32_t parked_index = 0;  // in group->parked
  absl::Time last_use;

  uint32_t pin_count() const;
  bool self_guarded() const { return handles > 0 || !pins.empty(); }
  bool guarded() const { return self_guarded() || (group != nullptr && group->holds > 0); }
};

class ObjectIndex {
 public:
  explicit ObjectIndex(std::unique_ptr<EvictionPolicy> policy);
  ~ObjectIndex();
  ObjectIndex(const ObjectIndex&) = delete;
  ObjectIndex& operator=(const ObjectIndex&) = delete;

  // ---- states
  // Reserved -> Resident. Null, with the object left where it was, when the key is there already.
  Object* Publish(std::unique_ptr<Object>& reserved, absl::Time now);
  Object* Find(const FullKey& key) const;
  // Resident -> Moving: false when not Resident, or a handle is open. A moving object can be found
  // and read.
  bool BeginMove(Object* object);
  // Moving -> Resident. Once after each BeginMove that answered true. The new place is taken only
  // if nobody opened or dropped the object meanwhile; otherwise it stays where it was. May destroy
  // the object when it is gone.
  struct MoveEnd {
    bool taken = false;                  // false: `to` is still the caller's
    std::optional<tier::Slot> free_now;  // the old place, when nobody needs it any more
  };
  MoveEnd EndMove(Object* object, TierId tier, const tier::Slot& to);
  // Resident or Moving -> gone: out of every table at once. The slot to free now; nothing while
  // handles are open (Close answers it then) or the object is gone already. May destroy the object.
  std::optional<tier::Slot> Drop(Object* object);

  // ---- handles
  void Open(Object* object, absl::Time now);
  // The slot to free when this was the last handle of an object that is gone. May destroy the
  // object.
  std::optional<tier::Slot> Close(Object* object);

  // ---- pins and holds (object_guards.cc)
  void Pin(Object* object, uint64_t owner, absl::Time until);
  bool Unpin(Object* object, uint64_t owner);
  // At most `limit` objects; true when the owner has pins on more.
  bool UnpinSome(uint64_t owner, size_t limit);
  void ExpirePins(absl::Time now);
  void Hold(NamespaceId ns, const std::string& group_name);
  // False when there is no such hold.
  bool Release(NamespaceId ns, const std::string& group_name);

  // ---- eviction
  struct Evicted {
    tier::Slot slot;  // free it
    uint64_t identity = 0;
    uint64_t bytes = 0;
    absl::Time last_use;
  };
  // Drops the next object that is not guarded. Nothing when there is none, or when `steps` ran out
  // first: each node looked at costs one step.
  std::optional<Evicted> EvictNext(uint32_t& steps);
  // Drops this one. REQUIRES: resident, not guarded.
  Evicted Evict(Object* object);
  // Calls fn(Object&) for every resident object that is not guarded.
  template <typename Fn>
  void ForEachEvictable(Fn&& fn) const {
    for (const std::unique_ptr<Object>& object : by_key_) {
      if (object->state == ObjectState::kResident && !object->guarded()) fn(*object);
    }
  }

  // ---- listing
  // Calls fn(Object&) for keys > after with the prefix, ascending, until it answers false.
  template <typename Fn>
  void Scan(NamespaceId ns, std::string_view prefix, std::string_view after, Fn&& fn) const;

  size_t objects() const { return by_key_.size(); }
  uint64_t object_bytes() const { return object_bytes_; }
  // What objects, and the guarded among them, take in their tiers.
  uint64_t slot_bytes() const { return slot_bytes_; }
  uint64_t guarded_bytes() const { return guarded_bytes_; }
  size_t groups() const { return groups_.size(); }

 private:
  struct KeyHash {
    using is_transparent = void;
    size_t operator()(const FullKey& key) const { return absl::Hash<FullKey>()(key); }
    size_t operator()(const std::unique_ptr<Object>& o) const { return (*this)(o->key); }
  };
  struct KeyEq {
    using is_transparent = void;
    static const FullKey& Of(const FullKey& key) { return key; }
    static const FullKey& Of(const std::unique_ptr<Object>& o) { return o->key; }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return Of(a) == Of(b);
    }
  };
  // The first 8 bytes of the key decide most comparisons without a visit to the object.
  struct Ordered {
    NamespaceId ns = 0;
    uint64_t head = 0;
    Object* object = nullptr;
  };
  struct Bound {
    NamespaceId ns = 0;
    std::string_view key;
  };
  struct Less {
    using is_transparent = void;
    bool operator()(const Ordered& a, const Ordered& b) const;
    bool operator()(const Ordered& a, const Bound& b) const;
    bool operator()(const Bound& a, const Ordered& b) const;
  };
  using GroupKey = std::pair<NamespaceId, std::string>;
  using OwnedSet = absl::flat_hash_set<std::unique_ptr<Object>, KeyHash, KeyEq>;

  static uint64_t Head(std::string_view key);
  static Evicted EvictedOf(const Object& object) {
    return {object.slot, object.identity, object.bytes, object.last_use};
  }
  static Ordered OrderedOf(Object& object);
  // Out of all tables but the policy; answers the slot to free now.
  std::optional<tier::Slot> Unlink(Object* object);
  void JoinGroup(Object* object);
  void LeaveGroup(Object* object);
  // Bracket every change of handles and pins.
  void GuardsChanged(Object* object, bool was_self_guarded);
  void Park(Object* object);
  void Unpark(Object* object);
  void LeaveParked(Object* object);
  void ForgetPin(Object* object, size_t pin_index);
  void ClearSoftPin(Object* object, OwnerPin& pin);

  std::unique_ptr<EvictionPolicy> policy_;
  OwnedSet by_key_;
  absl::btree_set<Ordered, Less> ordered_;
  absl::flat_hash_map<GroupKey, std::unique_ptr<ObjectGroup>> groups_;
  absl::flat_hash_map<uint64_t, absl::flat_hash_set<Object*>> owners_;
  std::set<std::tuple<absl::Time, Object*, uint64_t>> soft_pins_;  // deadline, object, owner
  // Gone, with handles still open.
  absl::flat_hash_map<Object*, std::unique_ptr<Object>> detached_;
  uint64_t object_bytes_ = 0;
  uint64_t slot_bytes_ = 0;
  uint64_t guarded_bytes_ = 0;
};

template <typename Fn>
void ObjectIndex::Scan(NamespaceId ns, std::string_view prefix, std::string_view after,
                       Fn&& fn) const {
  auto it = prefix > after ? ordered_.lower_bound(Bound{ns, prefix})
                           : ordered_.upper_bound(Bound{ns, after});
  for (; it != ordered_.end() && it->ns == ns; ++it) {
    if (!it->object->key.key.bytes().starts_with(prefix)) return;
    if (!fn(*it->object)) return;
  }
}

}  // namespace varve::store
