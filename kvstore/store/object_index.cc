#include "kvstore/store/object_index.h"

#include <utility>

namespace varve::store {

ObjectIndex::ObjectIndex(std::unique_ptr<EvictionPolicy> policy) : policy_(std::move(policy)) {}
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
  object->bytes = object->meta.bytes;
  object->identity = absl::Hash<FullKey>()(object->key);
  ordered_.insert(OrderedOf(*object));
  object_bytes_ += object->bytes;
  slot_bytes_ += object->slot.extent_bytes;
  JoinGroup(object);
  policy_->Insert(*object);
  return object;
}

Object* ObjectIndex::Find(const FullKey& key) const {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : found->get();
}

bool ObjectIndex::BeginMove(Object* object) {
  if (object->state != ObjectState::kResident || object->handles > 0) return false;
  object->state = ObjectState::kMoving;
  // The mover is a handle: what it copies from stays where it is.
  ++object->handles;
  GuardsChanged(object, !object->pins.empty());
  return true;
}

ObjectIndex::MoveEnd ObjectIndex::EndMove(Object* object, TierId tier, const tier::Slot& to) {
  if (object->state == ObjectState::kGone) return {false, Close(object)};
  object->state = ObjectState::kResident;
  MoveEnd end;
  if (object->handles == 1) {
    object->tier = tier;
    // The mover's handle guards the object.
    const uint64_t more = to.extent_bytes - object->slot.extent_bytes;
    slot_bytes_ += more;
    guarded_bytes_ += more;
    end = {true, std::exchange(object->slot, to)};
  }
  Close(object);
  return end;
}

std::optional<tier::Slot> ObjectIndex::Drop(Object* object) {
  if (object->state != ObjectState::kResident && object->state != ObjectState::kMoving) {
    return std::nullopt;
  }
  if (object->parked) {
    LeaveParked(object);
  } else {
    policy_->Erase(*object);
  }
  return Unlink(object);
}

std::optional<tier::Slot> ObjectIndex::Unlink(Object* object) {
  if (object->guarded()) guarded_bytes_ -= object->slot.extent_bytes;
  LeaveGroup(object);
  while (!object->pins.empty()) ForgetPin(object, object->pins.size() - 1);
  object_bytes_ -= object->bytes;
  slot_bytes_ -= object->slot.extent_bytes;
  ordered_.erase(OrderedOf(*object));
  object->state = ObjectState::kGone;
  std::unique_ptr<Object> owned = std::move(by_key_.extract(by_key_.find(object->key)).value());
  if (object->handles == 0) return object->slot;
  detached_.emplace(object, std::move(owned));
  return std::nullopt;
}

// ---- handles

void ObjectIndex::Open(Object* object, absl::Time now) {
  const bool was_self_guarded = object->self_guarded();
  ++object->handles;
  object->last_use = now;
  if (!object->parked) policy_->Touch(*object);
  GuardsChanged(object, was_self_guarded);
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

// ---- eviction

std::optional<ObjectIndex::Evicted> ObjectIndex::EvictNext(uint32_t& steps) {
  while (steps > 0) {
    --steps;
    EvictionNode* node = policy_->Victim();
    if (node == nullptr) return std::nullopt;
    auto* object = static_cast<Object*>(node);
    if (!object->guarded()) {
      const Evicted evicted = EvictedOf(*object);
      Unlink(object);
      return evicted;
    }
    Park(object);
  }
  return std::nullopt;
}

ObjectIndex::Evicted ObjectIndex::Evict(Object* object) {
  const Evicted evicted = EvictedOf(*object);
  Drop(object);
  return evicted;
}

}  // namespace varve::store
