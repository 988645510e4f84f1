#include "kvstore/store/object_index.h"

#include <utility>

namespace varve::store {
namespace {

// At what has expired and is kept.
constexpr absl::Duration kLookAgain = absl::Seconds(1);
// Objects that begin to wait for what follows them: a put or a use has paid for each, so so many
// cost one call for a victim no steps. A millisecond or so.
constexpr uint32_t kFreeWaits = 8192;

}  // namespace

ObjectIndex::ObjectIndex(std::unique_ptr<EvictionPolicy> host,
                         std::unique_ptr<EvictionPolicy> disk) {
  leaving_loses_[TierId::kHost] = disk == nullptr;
  leaving_loses_[TierId::kNvme] = true;
  policies_[TierId::kHost] = std::move(host);
  policies_[TierId::kNvme] = std::move(disk);
}
ObjectIndex::~ObjectIndex() = default;

// ---- order

// Big-endian and padded with zeros, so that numbers compare as the bytes do; equal numbers decide
// nothing.
uint64_t ObjectIndex::Head(std::string_view key) {
  uint64_t head = 0;
  for (size_t i = 0; i < 8; ++i) {
    head = head << 8 | (i < key.size() ? static_cast<uint8_t>(key[i]) : 0u);
  }
  return head;
}

ObjectIndex::Ordered ObjectIndex::OrderedOf(Object& object) {
  return {object.key.ns, Head(object.key.key.bytes()), &object};
}

bool ObjectIndex::Less::operator()(const Ordered& a, const Ordered& b) const {
  if (a.ns != b.ns) return a.ns < b.ns;
  if (a.head != b.head) return a.head < b.head;
  return a.object->key.key < b.object->key.key;
}

bool ObjectIndex::Less::operator()(const Ordered& a, const Bound& b) const {
  if (a.ns != b.ns) return a.ns < b.ns;
  return a.object->key.key.bytes() < b.key;
}

bool ObjectIndex::Less::operator()(const Bound& a, const Ordered& b) const {
  if (a.ns != b.ns) return a.ns < b.ns;
  return a.key < b.object->key.key.bytes();
}

// ---- states

Object* ObjectIndex::Publish(std::unique_ptr<Object>& reserved, absl::Time now) {
  if (by_key_.contains(reserved->key)) return nullptr;
  Object* object = reserved.get();
  by_key_.insert(std::move(reserved));
  object->state = ObjectState::kResident;
  object->last_use = now;
  object->identity = absl::Hash<FullKey>()(object->key);
  ordered_.insert(OrderedOf(*object));
  object_bytes_ += object->meta.bytes;
  object->expiry_look = object->meta.expires;
  if (object->expiry_look != absl::InfiniteFuture()) {
    expiries_.emplace(object->expiry_look, object);
  }
  JoinGroup(object);
  if (object->slot.bytes > 0) AddCopy(object, TierId::kHost, object->slot.extent_bytes);
  if (object->record != 0) AddCopy(object, TierId::kNvme, DiskBytes(object->meta.bytes));
  return object;
}

Object* ObjectIndex::Find(const FullKey& key) const {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : found->get();
}

// ---- copies

void ObjectIndex::AddCopy(Object* object, TierId tier, uint64_t tier_bytes) {
  Copy& copy = object->copies[tier];
  copy.object = object;
  copy.identity = object->identity;
  copy.bytes = object->meta.bytes;
  copy.prompt_tokens = object->meta.prompt_tokens;
  copy.tokens = object->meta.tokens;
  copy.tier_bytes = tier_bytes;
  ++tier_objects_[tier];
  tier_bytes_[tier] += tier_bytes;
  if (guarded(*object, tier)) guarded_bytes_[tier] += tier_bytes;
  if (object->group != nullptr && !object->self_guarded()) {
    object->group->unguarded_bytes[tier] += tier_bytes;
  }
  Count(object->group, tier == TierId::kHost ? Members{.in_host = 1} : Members{.on_disk = 1});
  policies_[tier]->Insert(copy);
}

void ObjectIndex::CopiesChanged(Object* object) {
  for (TierId tier : kTiers) WakeUnlessFollowed(object, tier);
}

void ObjectIndex::RemoveCopy(Object* object, TierId tier) {
  Copy& copy = object->copies[tier];
  if (copy.parked) {
    EndWaiting(copy, tier);
    LeaveParked(object, tier);
  } else if (!std::exchange(copy.victim, false)) {
    policies_[tier]->Erase(copy);
  }
  --tier_objects_[tier];
  tier_bytes_[tier] -= copy.tier_bytes;
  if (guarded(*object, tier)) guarded_bytes_[tier] -= copy.tier_bytes;
  if (object->group != nullptr && !object->self_guarded()) {
    object->group->unguarded_bytes[tier] -= copy.tier_bytes;
  }
  copy.tier_bytes = 0;
  if (tier == TierId::kNvme) {
    Count(object->group, {.on_disk = -1});
  } else if (!std::exchange(copy.leaving, false)) {
    Count(object->group, {.in_host = -1});
  }
}

void ObjectIndex::AddRecord(Object* object, tier::RecordId record) {
  object->record = record;
  AddCopy(object, TierId::kNvme, DiskBytes(object->meta.bytes));
  CopiesChanged(object);
}

void ObjectIndex::AddSlot(Object* object, const tier::Slot& slot) {
  object->slot = slot;
  AddCopy(object, TierId::kHost, slot.extent_bytes);
  CopiesChanged(object);
}

ObjectIndex::Freed ObjectIndex::LeaveTier(Object* object, TierId tier) {
  RemoveCopy(object, tier);
  // What is in one tier alone waits for more, so nobody wakes.
  if (tier == TierId::kNvme) return {.slot = {}, .record = std::exchange(object->record, 0)};
  return {.slot = std::exchange(object->slot, {}), .record = 0};
}

ObjectIndex::Freed ObjectIndex::Drop(Object* object) {
  if (object->state != ObjectState::kResident) return {};
  for (TierId tier : kTiers) {
    if (object->copies[tier].tier_bytes > 0) RemoveCopy(object, tier);
  }
  LeaveGroup(object);
  expiries_.erase({object->expiry_look, object});
  while (!object->pins.empty()) ForgetPin(object, object->pins.size() - 1);
  object_bytes_ -= object->meta.bytes;
  ordered_.erase(OrderedOf(*object));
  object->state = ObjectState::kGone;
  std::unique_ptr<Object> owned = std::move(by_key_.extract(by_key_.find(object->key)).value());
  Freed freed{.slot = {}, .record = std::exchange(object->record, 0)};
  if (object->handles == 0) {
    freed.slot = object->slot;
  } else {
    detached_.emplace(object, std::move(owned));
  }
  return freed;
}

// ---- handles

void ObjectIndex::OpenUnused(Object* object) {
  const bool was_self_guarded = object->self_guarded();
  ++object->handles;
  GuardsChanged(object, was_self_guarded);
}

void ObjectIndex::Open(Object* object, absl::Time now) {
  OpenUnused(object);
  object->last_use = now;
  for (TierId tier : kTiers) {
    Copy& copy = object->copies[tier];
    if (copy.waiting) {
      UseWaiting(object, tier);
    } else if (copy.tier_bytes > 0) {
      copy.parked ? policies_[tier]->TouchOutside(copy) : policies_[tier]->Touch(copy);
    }
  }
}

std::optional<tier::Slot> ObjectIndex::Close(Object* object) {
  --object->handles;
  if (object->state != ObjectState::kGone) {
    GuardsChanged(object, true);
    return std::nullopt;
  }
  if (object->handles > 0) return std::nullopt;
  const tier::Slot slot = object->slot;
  detached_.erase(object);
  return slot;
}

// ---- expiry

Object* ObjectIndex::NextExpired(absl::Time now, uint32_t& steps) {
  for (; steps > 0 && !expiries_.empty(); --steps) {
    const auto [look, object] = *expiries_.begin();
    if (look > now) return nullptr;
    if (object->expired(now)) return object;
    expiries_.erase(expiries_.begin());
    object->expiry_look = now + kLookAgain;
    expiries_.emplace(object->expiry_look, object);
  }
  return nullptr;
}

void ObjectIndex::Prolong(Object* object, absl::Time expires) {
  if (expires <= object->meta.expires) return;
  expiries_.erase({object->expiry_look, object});
  object->meta.expires = expires;
  object->expiry_look = expires;
  if (expires != absl::InfiniteFuture()) expiries_.emplace(expires, object);
}

// ---- eviction

Object* ObjectIndex::NextVictim(TierId tier, uint32_t& steps, const Object* newcomer) {
  uint32_t free_waits = kFreeWaits;
  while (steps > 0) {
    EvictionNode* node = policies_[tier]->Victim();
    if (node == nullptr) return LastResort(tier, newcomer);
    Object* object = static_cast<Copy*>(node)->object;
    const bool is_guarded = guarded(*object, tier);
    if (!is_guarded && followed(*object, tier)) {
      Wait(object, tier);
      if (free_waits > 0) {
        --free_waits;
      } else {
        --steps;
      }
      continue;
    }
    --steps;
    if (!is_guarded) {
      object->copies[tier].victim = true;
      return object;
    }
    Park(object, tier);
  }
  return nullptr;
}

void ObjectIndex::KeepVictim(Object* object, TierId tier) {
  Copy& copy = object->copies[tier];
  copy.victim = false;
  policies_[tier]->Return(copy);
}

}  // namespace varve::store
