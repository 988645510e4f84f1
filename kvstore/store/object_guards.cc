// What keeps objects from eviction: pins, holds, and the parking of guarded objects outside the
// policy.
#include <algorithm>
#include <utility>

#include "kvstore/store/object_index.h"

namespace varve::store {
uint32_t Object::pin_count() const {
  uint32_t count = 0;
  for (const OwnerPin& pin : pins) count += pin.count();
  return count;
}

// ---- parking

void ObjectIndex::Park(Object* object, TierId tier) {
  Copy& copy = object->copies[tier];
  copy.parked = true;
  if (object->group == nullptr) return;
  std::vector<Object*>& parked = object->group->parked[tier];
  copy.parked_index = static_cast<uint32_t>(parked.size());
  parked.push_back(object);
}

void ObjectIndex::LeaveParked(Object* object, TierId tier) {
  Copy& copy = object->copies[tier];
  copy.parked = false;
  if (object->group == nullptr) return;
  std::vector<Object*>& parked = object->group->parked[tier];
  parked.back()->copies[tier].parked_index = copy.parked_index;
  parked[copy.parked_index] = parked.back();
  parked.pop_back();
}

void ObjectIndex::Unpark(Object* object, TierId tier) {
  LeaveParked(object, tier);
  policies_[tier]->Return(object->copies[tier]);
}

void ObjectIndex::UnparkGroup(const ObjectGroup& group, TierId tier) {
  const std::vector<Object*>& parked = group.parked[tier];
  for (size_t i = parked.size(); i-- > 0;) {
    if (!parked[i]->self_guarded() && !parked[i]->copies[tier].waiting) Unpark(parked[i], tier);
  }
}

void ObjectIndex::GuardsChanged(Object* object, bool was_self_guarded) {
  const bool is_self_guarded = object->self_guarded();
  if (is_self_guarded == was_self_guarded) return;
  for (TierId tier : kTiers) {
    const uint64_t bytes = object->copies[tier].tier_bytes;
    if (bytes == 0) continue;
    if (object->group != nullptr) {
      object->group->unguarded_bytes[tier] += is_self_guarded ? -bytes : bytes;
    }
    if (leaving_loses_[tier] && object->held()) continue;
    guarded_bytes_[tier] += is_self_guarded ? bytes : -bytes;
    const Copy& copy = object->copies[tier];
    if (!is_self_guarded && copy.parked && !copy.waiting) Unpark(object, tier);
  }
}

// ---- holds

void ObjectIndex::Hold(NamespaceId ns, const std::string& group_name) {
  ObjectGroup* group = MakeGroup(ns, group_name);
  if (group->holds++ > 0) return;
  for (TierId tier : kTiers) {
    if (leaving_loses_[tier]) guarded_bytes_[tier] += group->unguarded_bytes[tier];
  }
}

void ObjectIndex::HoldsGuardHost(bool guard) {
  if (std::exchange(leaving_loses_[TierId::kHost], guard) == guard) return;
  for (const std::unique_ptr<ObjectGroup>& group : groups_) {
    if (!guard) Wake(group.get());  // what follows on disk alone keeps nothing any more
    if (group->holds == 0) continue;
    const uint64_t bytes = group->unguarded_bytes[TierId::kHost];
    guarded_bytes_[TierId::kHost] += guard ? bytes : -bytes;
    if (!guard) UnparkGroup(*group, TierId::kHost);
  }
}

bool ObjectIndex::Release(NamespaceId ns, const std::string& group_name) {
  ObjectGroup* found = FindGroup(ns, group_name);
  if (found == nullptr || found->holds == 0) return false;
  ObjectGroup& group = *found;
  if (--group.holds > 0) return true;
  for (TierId tier : kTiers) {
    if (leaving_loses_[tier]) guarded_bytes_[tier] -= group.unguarded_bytes[tier];
    UnparkGroup(group, tier);
  }
  ForgetIfUnused(found);
  return true;
}

// ---- pins

void ObjectIndex::Pin(Object* object, uint64_t owner, absl::Time until) {
  const bool was_self_guarded = object->self_guarded();
  OwnerPin* pin = nullptr;
  for (OwnerPin& p : object->pins) {
    if (p.owner == owner) pin = &p;
  }
  if (pin == nullptr) {
    pin = &object->pins.emplace_back(OwnerPin{.owner = owner});
    owners_[owner].insert(object);
  }
  if (until == absl::InfiniteFuture()) {
    ++pin->hard;
  } else if (until > pin->soft_until) {
    ClearSoftPin(object, *pin);
    pin->soft_until = until;
    soft_pins_.emplace(until, object, owner);
  }
  GuardsChanged(object, was_self_guarded);
}

void ObjectIndex::ClearSoftPin(Object* object, OwnerPin& pin) {
  soft_pins_.erase({pin.soft_until, object, pin.owner});
  pin.soft_until = absl::InfinitePast();
}

void ObjectIndex::ForgetPin(Object* object, size_t pin_index) {
  OwnerPin& pin = object->pins[pin_index];
  ClearSoftPin(object, pin);
  const auto owned = owners_.find(pin.owner);
  owned->second.erase(object);
  if (owned->second.empty()) owners_.erase(owned);
  pin = object->pins.back();
  object->pins.pop_back();
}

bool ObjectIndex::Unpin(Object* object, uint64_t owner) {
  for (size_t i = 0; i < object->pins.size(); ++i) {
    OwnerPin& pin = object->pins[i];
    if (pin.owner != owner) continue;
    if (pin.hard > 0) {
      --pin.hard;
    } else {
      ClearSoftPin(object, pin);
    }
    if (pin.count() == 0) {
      ForgetPin(object, i);
      GuardsChanged(object, true);
    }
    return true;
  }
  return false;
}

bool ObjectIndex::UnpinSome(uint64_t owner, size_t limit) {
  for (; limit > 0; --limit) {
    // Forgetting the last pin of an owner erases its row.
    const auto owned = owners_.find(owner);
    if (owned == owners_.end()) return false;
    Object* object = *owned->second.begin();
    const auto pin = std::find_if(object->pins.begin(), object->pins.end(),
                                  [owner](const OwnerPin& p) { return p.owner == owner; });
    ForgetPin(object, static_cast<size_t>(pin - object->pins.begin()));
    GuardsChanged(object, true);
  }
  return owners_.contains(owner);
}

void ObjectIndex::ExpirePins(absl::Time now) {
  while (!soft_pins_.empty() && std::get<0>(*soft_pins_.begin()) <= now) {
    const auto [deadline, object, owner] = *soft_pins_.begin();
    for (size_t i = 0; i < object->pins.size(); ++i) {
      OwnerPin& pin = object->pins[i];
      if (pin.owner != owner) continue;
      ClearSoftPin(object, pin);
      if (pin.count() == 0) {
        ForgetPin(object, i);
        GuardsChanged(object, true);
      }
      break;
    }
  }
}

}  // namespace varve::store
