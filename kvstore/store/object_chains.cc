// Blocks: which objects are of one, and which block follows which. What keeps the head of a chain
// in a tier while there is more of it.
#include <utility>

#include "kvstore/store/object_index.h"

namespace varve::store {
namespace {

constexpr size_t kGroupSuffixBytes = 4;
constexpr size_t kMinGroupedKeyBytes = 8;
// Blocks looked at for a circle, only where a block is put before one that it follows; and for what
// is being continued, only where nothing else can leave.
constexpr uint32_t kMostSteps = 4096;
// Of those that wait and are guarded by now.
constexpr int kMostLooks = 256;

}  // namespace

std::string_view BlockOf(const page::ObjectKey& key) {
  const std::string_view bytes = key.bytes();
  if (bytes.size() < kMinGroupedKeyBytes) return {};
  return bytes.substr(0, bytes.size() - kGroupSuffixBytes);
}

bool CanFollow(const page::ObjectKey& key, std::string_view parent) {
  const std::string_view block = BlockOf(key);
  return !block.empty() && block != parent &&
         parent.size() + kGroupSuffixBytes >= kMinGroupedKeyBytes &&
         parent.size() + kGroupSuffixBytes <= page::ObjectKey::kMaxBytes;
}

// ---- groups

ObjectGroup* ObjectIndex::FindGroup(NamespaceId ns, std::string_view name) const {
  const auto found = groups_.find(GroupName{ns, name});
  return found == groups_.end() ? nullptr : found->get();
}

ObjectGroup* ObjectIndex::MakeGroup(NamespaceId ns, std::string_view name) {
  if (ObjectGroup* group = FindGroup(ns, name)) return group;
  auto made = std::make_unique<ObjectGroup>();
  made->ns = ns;
  made->name = name;
  return groups_.insert(std::move(made)).first->get();
}

void ObjectIndex::ForgetIfUnused(ObjectGroup* group) {
  if (group->stored() || group->holds > 0 || group->children > 0) return;
  groups_.erase(groups_.find(GroupName{group->ns, group->name}));
}

void ObjectIndex::JoinGroup(Object* object) {
  const std::string_view block = BlockOf(object->key.key);
  if (block.empty()) return;
  object->group = MakeGroup(object->key.ns, block);
  const int expected = std::exchange(object->expected, false) ? 1 : 0;
  Count(object->group, {.objects = 1, .expected = -expected});
}

void ObjectIndex::LeaveGroup(Object* object) {
  if (ObjectGroup* group = std::exchange(object->group, nullptr)) Count(group, {.objects = -1});
}

void ObjectIndex::Count(ObjectGroup* group, const Members& more) {
  if (group == nullptr) return;
  const int was_stored = group->stored(), was_in_host = group->in_host > 0,
            was_on_disk = group->on_disk > 0;
  group->objects += static_cast<uint32_t>(more.objects);
  group->in_host += static_cast<uint32_t>(more.in_host);
  group->on_disk += static_cast<uint32_t>(more.on_disk);
  if (more.expected > 0 && group->expected == 0) expecting_.insert(group);
  group->expected += static_cast<uint32_t>(more.expected);
  if (more.expected < 0 && group->expected == 0) expecting_.erase(group);
  const int stored = group->stored() - was_stored, in_host = (group->in_host > 0) - was_in_host,
            on_disk = (group->on_disk > 0) - was_on_disk;
  if (ObjectGroup* parent = group->parent) {
    parent->children_stored += static_cast<uint32_t>(stored);
    parent->children_in_host += static_cast<uint32_t>(in_host);
    parent->children_on_disk += static_cast<uint32_t>(on_disk);
    // Who puts it again says again what it follows: no chain of names outlives its objects.
    if (!group->stored()) {
      group->parent = nullptr;
      --parent->children;
    }
    if (stored < 0 || in_host < 0 || on_disk < 0) Wake(parent);
    ForgetIfUnused(parent);
  }
  if (stored < 0) ForgetIfUnused(group);
}

// ---- chains

void ObjectIndex::Expect(Object* reserved, std::string_view parent) {
  ObjectGroup* group = MakeGroup(reserved->key.ns, BlockOf(reserved->key.key));
  reserved->expected = true;
  Count(group, {.expected = 1});
  if (group->parent == nullptr) Link(group, MakeGroup(reserved->key.ns, parent));
}

void ObjectIndex::Abandon(Object* reserved) {
  if (!std::exchange(reserved->expected, false)) return;
  Count(FindGroup(reserved->key.ns, BlockOf(reserved->key.key)), {.expected = -1});
}

void ObjectIndex::Link(ObjectGroup* group, ObjectGroup* parent) {
  uint32_t steps = kMostSteps;
  const ObjectGroup* above = parent;
  // One that nothing follows closes no circle.
  while (group->children > 0 && above != nullptr && above != group && steps > 0) {
    above = above->parent;
    --steps;
  }
  if (group->children > 0 && above != nullptr) return ForgetIfUnused(parent);
  group->parent = parent;
  ++parent->children;
  parent->children_stored += group->stored() ? 1 : 0;
  parent->children_in_host += group->in_host > 0 ? 1 : 0;
  parent->children_on_disk += group->on_disk > 0 ? 1 : 0;
}

void ObjectIndex::BeginLeaving(Object* object) {
  object->copies[TierId::kHost].leaving = true;
  Count(object->group, {.in_host = -1});
}

void ObjectIndex::EndLeaving(Object* object) {
  if (!std::exchange(object->copies[TierId::kHost].leaving, false)) return;
  Count(object->group, {.in_host = 1});
}

bool ObjectIndex::followed(const Object& object, TierId tier) const {
  const ObjectGroup* group = object.group;
  if (group == nullptr) return false;
  if (tier == TierId::kNvme) {
    return (object.slot.bytes > 0 ? group->children_on_disk : group->children_stored) > 0;
  }
  const bool loses = leaving_loses(tier) && object.record == 0;
  return (loses ? group->children_stored : group->children_in_host) > 0;
}

void ObjectIndex::Wait(Object* object, TierId tier) {
  Copy& copy = object->copies[tier];
  copy.waiting = true;
  policies_[tier]->Defer(copy);
  waiting_[tier].PushNewest(copy);
  Park(object, tier);
}

bool ObjectIndex::EndWaiting(Copy& copy, TierId tier) {
  if (!std::exchange(copy.waiting, false)) return false;
  waiting_[tier].Erase(copy);
  return true;
}

Object* ObjectIndex::LastResort(TierId tier, const Object* newcomer) {
  if (waiting_[tier].newest() == nullptr) return nullptr;
  ++last_mark_;
  uint32_t steps = kMostSteps;
  if (newcomer != nullptr) MarkUpwards(newcomer->group, steps);
  for (ObjectGroup* group : expecting_) MarkUpwards(group, steps);
  EvictionNode* node = waiting_[tier].newest();
  for (int looks = 0; looks < kMostLooks && node != nullptr; ++looks) {
    auto& copy = static_cast<Copy&>(*node);
    node = node->older;
    if (copy.object->group->mark == last_mark_) continue;
    EndWaiting(copy, tier);
    // Else it stays parked, for its guards.
    if (guarded(*copy.object, tier)) continue;
    LeaveParked(copy.object, tier);
    copy.victim = true;
    return copy.object;
  }
  return nullptr;
}

void ObjectIndex::MarkUpwards(ObjectGroup* group, uint32_t& steps) {
  for (; group != nullptr && steps > 0; group = group->parent, --steps) {
    if (std::exchange(group->mark, last_mark_) == last_mark_) return;
  }
}

void ObjectIndex::Wake(ObjectGroup* group) {
  for (TierId tier : kTiers) {
    const std::vector<Object*>& parked = group->parked[tier];
    for (size_t i = parked.size(); i-- > 0;) WakeUnlessFollowed(parked[i], tier);
  }
}

void ObjectIndex::WakeUnlessFollowed(Object* object, TierId tier) {
  Copy& copy = object->copies[tier];
  if (!copy.waiting || followed(*object, tier)) return;
  EndWaiting(copy, tier);
  if (guarded(*object, tier)) return;
  LeaveParked(object, tier);
  policies_[tier]->ReturnOldest(copy);
}

void ObjectIndex::UseWaiting(Object* object, TierId tier) {
  Copy& copy = object->copies[tier];
  EndWaiting(copy, tier);
  LeaveParked(object, tier);
  policies_[tier]->Return(copy);
  policies_[tier]->Touch(copy);
}

}  // namespace varve::store
