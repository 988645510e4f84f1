// The states of objects, who keeps them, in which tiers they are, and where keys lead. A state
// machine without locks, clocks or bytes.
//
//   Reserved --Publish--> Resident --Drop--> gone (destroyed with its last handle)
//
// A Reserved object belongs to its writer (unique_ptr) and is in no table, so that nothing
// half-written can be found; Publish takes it over or, when the key is there already, leaves it
// with the writer. A Resident object has a copy in host memory, one on disk, or both: AddRecord and
// AddSlot make the second one, LeaveTier gives one up while there is another. Each tier has an
// eviction policy of its own.
//
// Kept from eviction ("guarded") is an object with an open handle or a pin, in all tiers. A hold on
// its group keeps it from being lost: it guards the copies on disk, and those in host memory as
// well when there is no disk to move to. Guarded objects are taken out of an eviction policy
// lazily, when they come up as victims, and go back when the last guard falls; so a hold on a group
// costs O(1) whatever the group's size.
// Groups: all keys that differ only in their last 4 bytes; keys shorter than 8 bytes have none.
//
// A group may follow another, its parent: the next block of a prompt. An object that comes up as a
// victim while there are objects of a group that follows its own waits outside the policy until the
// last of them has left, and is then the next victim: a chain loses its end first, in whatever
// order it was put or used. Where leaving a tier loses the object, what follows counts wherever it
// is stored; where it moves to disk, what is in host memory and not on its way out. An object waits
// at most once for each time that it is put or used, so this too is amortised O(1) an eviction.
// Guarded groups are waited for, too.
//
// Not thread-safe; the page store locks. Look-ups O(1), the ordered index O(log n).
#pragma once

#include <array>
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
#include "kvstore/base/status.h"
#include "kvstore/store/eviction_policy.h"
#include "kvstore/store/granules.h"
#include "kvstore/store/node_list.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/record_log.h"

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

enum class ObjectState : uint8_t { kReserved, kResident, kGone };

// The tiers of an index, from the fastest.
constexpr std::array<TierId, 2> kTiers = {TierId::kHost, TierId::kNvme};
template <typename T>
class PerTier {
 public:
  T& operator[](TierId tier) { return of_[tier == TierId::kNvme]; }
  const T& operator[](TierId tier) const { return of_[tier == TierId::kNvme]; }

 private:
  std::array<T, kTiers.size()> of_{};
};

struct OwnerPin {
  uint64_t owner = 0;
  uint32_t hard = 0;                             // until unpinned
  absl::Time soft_until = absl::InfinitePast();  // InfinitePast: no soft pin

  uint32_t count() const { return hard + (soft_until != absl::InfinitePast() ? 1 : 0); }
};

struct Object;

// The objects of a block (BlockOf). It is there while it has objects or holds, or is another's
// parent.
struct ObjectGroup {
  NamespaceId ns = 0;
  std::string name;
  uint32_t objects = 0;
  uint32_t in_host = 0;   // of them, copies in host memory that are not leaving it
  uint32_t on_disk = 0;   // of them, records
  uint32_t expected = 0;  // reserved, with a parent
  uint32_t holds = 0;
  // Its place in a chain (object_chains.cc).
  ObjectGroup* parent = nullptr;         // of one that is stored(); null: the first, or not known
  uint32_t children = 0;                 // whose parent this is ...
  uint32_t children_stored = 0;          // ... those that are stored()
  uint32_t children_in_host = 0;         // ... those with in_host
  uint32_t children_on_disk = 0;         // ... those with on_disk
  PerTier<uint64_t> unguarded_bytes;     // copies of members without handles and pins of their own
  PerTier<std::vector<Object*>> parked;  // members that are out of the policy
  uint64_t mark = 0;                     // of LastResort

  bool stored() const { return objects + expected > 0; }
};

// An object's copy in one tier.
struct Copy : EvictionNode {
  Object* object = nullptr;
  uint64_t tier_bytes = 0;  // what it takes there; 0: there is no copy
  bool victim = false;      // named by its policy, which it has left
  bool parked = false;
  bool waiting = false;       // parked, for what follows it in its chain, and in waiting_
  bool leaving = false;       // host memory: no longer counted in its group's in_host
  uint32_t parked_index = 0;  // in group->parked
};

// Fields of the first part never change once published, so a handle reads them without a lock; but
// meta.expires (Prolong), which handles leave alone. `slot` leaves only while no handle is open.
struct Object {
  FullKey key;
  ObjectMeta meta;
  GranuleChecksums checksums;
  uint64_t identity = 0;
  tier::Slot slot;            // in host memory; 0 bytes: not there
  tier::RecordId record = 0;  // on disk; 0: not there

  // The page store's own.
  bool writing = false;       // a record of it is being made, with a handle of the store's own
  bool demoting = false;      // and then it leaves host memory
  bool put_waits = false;     // for that record: nobody was told that the object is stored
  bool refused = false;       // by a disk that turned out to be full: tried once more
  bool write_failed = false;  // of late: it shall be tried again
  bool promoting = false;     // it is being brought into host memory, likewise with a handle
  // The copy in host memory is damaged, and leaves with the last handle: the one on disk is read.
  bool host_damaged = false;
  tier::RecordId record_written = 0;  // its id, while it is with the log

  // The index's own.
  ObjectState state = ObjectState::kReserved;
  bool expected = false;  // its group counts it, before it is published
  PerTier<Copy> copies;
  uint32_t handles = 0;
  std::vector<OwnerPin> pins;
  ObjectGroup* group = nullptr;
  absl::Time last_use;
  absl::Time expiry_look;  // when it may have expired; InfiniteFuture: never

  TierId tier() const { return slot.bytes > 0 ? TierId::kHost : TierId::kNvme; }
  uint32_t pin_count() const;
  bool self_guarded() const { return handles > 0 || !pins.empty(); }
  bool held() const { return group != nullptr && group->holds > 0; }
  // Its time is over, and no pin or hold keeps it. Open handles only keep its bytes.
  bool expired(absl::Time now) const { return meta.expires <= now && pins.empty() && !held(); }
};

// What a value takes on disk, about: it has a header, and both are rounded.
constexpr uint64_t DiskBytes(uint64_t value_bytes) {
  return (value_bytes + 4095) / 4096 * 4096 + 4096;
}

class ObjectIndex {
 public:
  // disk: null when there is none.
  ObjectIndex(std::unique_ptr<EvictionPolicy> host, std::unique_ptr<EvictionPolicy> disk);
  ~ObjectIndex();
  ObjectIndex(const ObjectIndex&) = delete;
  ObjectIndex& operator=(const ObjectIndex&) = delete;

  // ---- states
  // Reserved -> Resident, with the copies it has. Null, with the object left where it was, when the
  // key is there already.
  Object* Publish(std::unique_ptr<Object>& reserved, absl::Time now);
  // Of an object that may be published: its block follows this one, which CanFollow says, and waits
  // for it already. Of what a block's objects say, the first counts. What must follow is Publish,
  // or Abandon.
  void Expect(Object* reserved, std::string_view parent);
  void Abandon(Object* reserved);
  Object* Find(const FullKey& key) const;
  // A copy more. REQUIRES: resident, and none in that tier.
  void AddRecord(Object* object, tier::RecordId record);
  void AddSlot(Object* object, const tier::Slot& slot);
  // What to free or erase now.
  struct Freed {
    tier::Slot slot;  // 0 bytes: none
    tier::RecordId record = 0;
  };
  // A copy less. REQUIRES: resident, and another copy; for the one in host memory no open handles.
  Freed LeaveTier(Object* object, TierId tier);
  // Resident -> gone: out of every table at once. While handles are open the slot comes from the
  // last Close. May destroy the object.
  Freed Drop(Object* object);

  // Whether leaving host memory loses an object, and so holds keep copies there: not as long as
  // they can move to disk. O(groups).
  void HoldsGuardHost(bool guard);

  // ---- handles
  void Open(Object* object, absl::Time now);
  // A handle that is no use of the object: of whoever moves it.
  void OpenUnused(Object* object);
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
  // The next object that is not guarded in this tier, taken out of its policy: what comes next must
  // be LeaveTier, Drop or KeepVictim. Null when there is none, or when `steps` ran out first: each
  // node looked at costs one step.
  // newcomer: for whom the room is, of those in the index; null: for others.
  Object* NextVictim(TierId tier, uint32_t& steps, const Object* newcomer = nullptr);
  void KeepVictim(Object* object, TierId tier);
  // The copy in host memory is on its way out: what comes before it in its chain need not wait.
  // Until LeaveTier, Drop, or EndLeaving when it stays after all.
  void BeginLeaving(Object* object);
  void EndLeaving(Object* object);
  // There is more behind it that has to leave first, as long as there is anything that can.
  bool followed(const Object& object, TierId tier) const;
  // Something that is stored follows it.
  static bool continued(const Object& object) {
    return object.group != nullptr && object.group->children_stored > 0;
  }
  // Whatever is not guarded in the tier waits for what follows it.
  bool all_wait(TierId tier) const { return policies_[tier]->size() == 0; }
  // The block before the object's own; empty: none, or not known.
  static std::string_view ParentOf(const Object& object) {
    const bool known = object.group != nullptr && object.group->parent != nullptr;
    return known ? std::string_view(object.group->parent->name) : std::string_view();
  }
  bool guarded(const Object& object, TierId tier) const {
    return object.handles > 0 || pinned(object, tier);
  }
  // Guarded for longer than handles are open.
  bool pinned(const Object& object, TierId tier) const {
    return !object.pins.empty() || (leaving_loses(tier) && object.held());
  }
  // Of what is pinned() there. O(objects).
  uint64_t CountPinnedBytes(TierId tier) const {
    uint64_t bytes = 0;
    for (const std::unique_ptr<Object>& object : by_key_) {
      if (pinned(*object, tier)) bytes += object->copies[tier].tier_bytes;
    }
    return bytes;
  }
  // Calls fn(Object&) for every resident object.
  template <typename Fn>
  void ForEach(Fn&& fn) const {
    for (const std::unique_ptr<Object>& object : by_key_) fn(*object);
  }
  // Calls fn(Object&) for every object with a copy in the tier that is not guarded there.
  template <typename Fn>
  void ForEachEvictable(TierId tier, Fn&& fn) const {
    for (const std::unique_ptr<Object>& object : by_key_) {
      if (object->copies[tier].tier_bytes > 0 && !guarded(*object, tier)) fn(*object);
    }
  }

  // ---- expiry
  // The next object that has expired: what comes next must be Drop. Null when there is none, or
  // when `steps` ran out first: each object looked at costs one. What is kept by a pin or a hold is
  // looked at again a second later.
  Object* NextExpired(absl::Time now, uint32_t& steps);
  // It expires then, if that is later than before.
  void Prolong(Object* object, absl::Time expires);

  // ---- listing
  // Calls fn(Object&) for keys > after with the prefix, ascending, until it answers false.
  template <typename Fn>
  void Scan(NamespaceId ns, std::string_view prefix, std::string_view after, Fn&& fn) const;

  size_t objects() const { return by_key_.size(); }
  uint64_t object_bytes() const { return object_bytes_; }
  // What objects, and the guarded among them, take in a tier.
  uint64_t tier_objects(TierId tier) const { return tier_objects_[tier]; }
  uint64_t tier_bytes(TierId tier) const { return tier_bytes_[tier]; }
  uint64_t guarded_bytes(TierId tier) const { return guarded_bytes_[tier]; }
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
  using GroupName = std::pair<NamespaceId, std::string_view>;
  struct GroupHash {
    using is_transparent = void;
    size_t operator()(const GroupName& name) const {
      return absl::HashOf(name.first, base::Sv(name.second));
    }
    size_t operator()(const std::unique_ptr<ObjectGroup>& g) const {
      return (*this)(GroupName{g->ns, g->name});
    }
  };
  struct GroupEq {
    using is_transparent = void;
    static GroupName Of(const GroupName& name) { return name; }
    static GroupName Of(const std::unique_ptr<ObjectGroup>& g) { return {g->ns, g->name}; }
    template <typename A, typename B>
    bool operator()(const A& a, const B& b) const {
      return Of(a) == Of(b);
    }
  };
  using OwnedSet = absl::flat_hash_set<std::unique_ptr<Object>, KeyHash, KeyEq>;

  bool leaving_loses(TierId tier) const { return leaving_loses_[tier]; }
  static uint64_t Head(std::string_view key);
  static Ordered OrderedOf(Object& object);
  void AddCopy(Object* object, TierId tier, uint64_t tier_bytes);
  void RemoveCopy(Object* object, TierId tier);
  // What it waits for in one tier depends on whether it is in the other.
  void CopiesChanged(Object* object);
  ObjectGroup* FindGroup(NamespaceId ns, std::string_view name) const;
  ObjectGroup* MakeGroup(NamespaceId ns, std::string_view name);
  void ForgetIfUnused(ObjectGroup* group);
  void JoinGroup(Object* object);
  void LeaveGroup(Object* object);
  struct Members {
    int objects = 0;
    int in_host = 0;
    int on_disk = 0;
    int expected = 0;
  };
  // The group, null for none, has so many more. May be the end of it.
  void Count(ObjectGroup* group, const Members& more);
  void Link(ObjectGroup* group, ObjectGroup* parent);
  void Wait(Object* object, TierId tier);
  // False: it did not wait.
  bool EndWaiting(Copy& copy, TierId tier);
  // When nothing else can leave: of those that wait, the one that began last, so that chains lose
  // their ends still, but nothing that the newcomer follows, or a block which is being put. Null
  // when there is none, or not among the first looked at.
  Object* LastResort(TierId tier, const Object* newcomer);
  void MarkUpwards(ObjectGroup* group, uint32_t& steps);
  // What waits for what follows the group, when nothing does any more.
  void Wake(ObjectGroup* group);
  void WakeUnlessFollowed(Object* object, TierId tier);
  void UseWaiting(Object* object, TierId tier);
  // Bracket every change of handles and pins.
  void GuardsChanged(Object* object, bool was_self_guarded);
  void Park(Object* object, TierId tier);
  void Unpark(Object* object, TierId tier);
  void LeaveParked(Object* object, TierId tier);
  void UnparkGroup(const ObjectGroup& group, TierId tier);
  void ForgetPin(Object* object, size_t pin_index);
  void ClearSoftPin(Object* object, OwnerPin& pin);

  PerTier<std::unique_ptr<EvictionPolicy>> policies_;
  PerTier<NodeList> waiting_;  // in the order in which they began
  absl::flat_hash_set<ObjectGroup*> expecting_;
  uint64_t last_mark_ = 0;
  PerTier<bool> leaving_loses_;  // and so holds guard
  OwnedSet by_key_;
  absl::btree_set<Ordered, Less> ordered_;
  absl::flat_hash_set<std::unique_ptr<ObjectGroup>, GroupHash, GroupEq> groups_;
  absl::flat_hash_map<uint64_t, absl::flat_hash_set<Object*>> owners_;
  std::set<std::tuple<absl::Time, Object*, uint64_t>> soft_pins_;  // deadline, object, owner
  std::set<std::pair<absl::Time, Object*>> expiries_;              // by Object::expiry_look
  // Gone, with handles still open.
  absl::flat_hash_map<Object*, std::unique_ptr<Object>> detached_;
  uint64_t object_bytes_ = 0;
  PerTier<uint64_t> tier_objects_;
  PerTier<uint64_t> tier_bytes_;
  PerTier<uint64_t> guarded_bytes_;
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
