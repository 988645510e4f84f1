// Random walks of the object index against a naive model.
#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kvstore/store/lru_policy.h"
#include "kvstore/store/object_index.h"

namespace varve::store {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'800'000'000);

page::ObjectKey Key(std::string_view bytes) { return *page::ObjectKey::FromBytes(bytes); }

struct ModelObject {
  uint64_t bytes = 0;
  uint64_t slot_generation = 0;  // 0: not in host memory
  uint64_t record = 0;           // 0: not on disk
  bool leaving = false;          // host memory
  uint32_t handles = 0;
  std::map<uint64_t, uint32_t> hard;
  std::map<uint64_t, absl::Time> soft;
  Object* object = nullptr;
};

class RandomWalk {
 public:
  explicit RandomWalk(uint64_t seed) : random_(seed) {}

  void Step() {
    now_ += absl::Milliseconds(1);
    switch (random_() % 16) {
      case 0:
      case 1:
      case 2:
        Publish();
        break;
      case 3:
        Open();
        break;
      case 4:
        Close();
        break;
      case 5:
        Drop();
        break;
      case 6:
        Pin();
        break;
      case 7:
        Unpin();
        break;
      case 8:
        Hold();
        break;
      case 9:
        Release();
        break;
      case 10:
        Evict(TierId::kHost);
        break;
      case 11:
        Evict(TierId::kNvme);
        break;
      case 12:
      case 13:
        AddCopy();
        break;
      case 14:
        if (random_() % 8 == 0) index_.HoldsGuardHost(hold_guards_host_ = !hold_guards_host_);
        break;
      default:
        index_.ExpirePins(now_);
        Expire();
    }
    ForgetLinks();
    Check();
  }

 private:
  static constexpr uint64_t kKeys = 24;

  std::string KeyOf(uint64_t n) {
    return "hash" + std::to_string(n / 4) + "-000" + std::to_string(n % 4);
  }
  std::string GroupOf(const std::string& key) { return key.substr(0, key.size() - 4); }
  uint64_t AnyOwner() { return random_() % 3; }

  ModelObject* AnyLive(std::string* key) {
    *key = KeyOf(random_() % kKeys);
    const auto found = live_.find(*key);
    return found == live_.end() ? nullptr : &found->second;
  }

  void Publish() {
    auto object = std::make_unique<Object>();
    const std::string key = KeyOf(random_() % kKeys);
    object->key = FullKey{1, Key(key)};
    object->meta.bytes = 1 + random_() % 100;
    object->slot = tier::Slot{next_ * 4096, object->meta.bytes, next_, object->meta.bytes + 7};
    ++next_;
    const uint64_t bytes = object->meta.bytes;
    const uint64_t generation = object->slot.generation;
    if (random_() % 2 == 0) Expect(object.get());
    Object* published = random_() % 8 == 0 ? nullptr : index_.Publish(object, now_);
    if (published == nullptr) {
      index_.Abandon(object.get());
      return ForgetLinks();
    }
    ASSERT_FALSE(live_.contains(key));
    live_[key] = ModelObject{.bytes = bytes, .slot_generation = generation, .object = published};
    held_slots_.insert(generation);
  }
  // Any group may be said to follow any other: also in circles.
  void Expect(Object* object) {
    const std::string group = GroupOf(std::string(object->key.key.bytes()));
    const std::string parent = GroupOf(KeyOf(random_() % kKeys));
    if (parent == group) return;
    index_.Expect(object, parent);
    if (parents_.contains(group)) return;
    std::string above = parent;
    while (parents_.contains(above) && above != group) above = parents_.at(above);
    if (above != group) parents_[group] = parent;
  }
  void ForgetLinks() {
    std::erase_if(parents_, [this](const auto& link) {
      return std::none_of(live_.begin(), live_.end(),
                          [&](const auto& object) { return GroupOf(object.first) == link.first; });
    });
  }
  // Where an object is in one tier alone and leaving loses it, by anything; else by what is beside
  // it.
  bool Followed(const std::string& key, TierId tier) {
    const ModelObject& own = live_.at(key);
    const bool alone = !In(own, tier == TierId::kHost ? TierId::kNvme : TierId::kHost);
    const bool anywhere = alone && (tier == TierId::kNvme || hold_guards_host_);
    return std::any_of(live_.begin(), live_.end(), [&](const auto& object) {
      const auto parent = parents_.find(GroupOf(object.first));
      const ModelObject& m = object.second;
      const bool beside = In(m, tier) && (tier == TierId::kNvme || !m.leaving);
      return parent != parents_.end() && parent->second == GroupOf(key) && (anywhere || beside);
    });
  }
  void Open() {
    std::string key;
    ModelObject* m = AnyLive(&key);
    if (m == nullptr) return;
    index_.Open(m->object, now_);
    ++m->handles;
  }
  void Close() {
    if (!detached_.empty() && random_() % 2 == 0) {
      auto it = std::next(detached_.begin(), static_cast<long>(random_() % detached_.size()));
      const auto freed = index_.Close(it->first);
      --it->second.handles;
      ASSERT_EQ(freed.has_value(), it->second.handles == 0);
      if (!freed) return;
      ASSERT_EQ(freed->bytes > 0, it->second.slot_generation != 0);
      if (freed->bytes > 0) Freed(*freed);
      detached_.erase(it);
      return;
    }
    std::string key;
    ModelObject* m = AnyLive(&key);
    if (m == nullptr || m->handles == 0) return;
    ASSERT_FALSE(index_.Close(m->object).has_value());
    --m->handles;
  }
  void Drop() {
    std::string key;
    ModelObject* m = AnyLive(&key);
    if (m == nullptr) return;
    const auto freed = index_.Drop(m->object);
    const bool frees = freed.slot.bytes > 0;
    ASSERT_EQ(frees, m->handles == 0 && m->slot_generation != 0);
    ASSERT_EQ(freed.record, m->record);
    if (frees) Freed(freed.slot);
    if (m->handles > 0) detached_[m->object] = *m;
    live_.erase(key);
  }
  void Pin() {
    std::string key;
    ModelObject* m = AnyLive(&key);
    if (m == nullptr) return;
    const uint64_t owner = AnyOwner();
    if (random_() % 2 == 0) {
      index_.Pin(m->object, owner, absl::InfiniteFuture());
      ++m->hard[owner];
    } else {
      const absl::Time until = now_ + absl::Milliseconds(1 + random_() % 100);
      index_.Pin(m->object, owner, until);
      auto [it, added] = m->soft.try_emplace(owner, until);
      it->second = std::max(it->second, until);
    }
  }
  void Unpin() {
    const uint64_t owner = AnyOwner();
    if (random_() % 8 == 0) {
      while (index_.UnpinSome(owner, 2)) {
      }
      for (auto& [key, m] : live_) {
        m.hard.erase(owner);
        m.soft.erase(owner);
      }
      return;
    }
    std::string key;
    ModelObject* m = AnyLive(&key);
    if (m == nullptr) return;
    const bool pinned = m->hard.contains(owner) || m->soft.contains(owner);
    ASSERT_EQ(index_.Unpin(m->object, owner), pinned);
    if (!pinned) return;
    if (!m->hard.contains(owner)) {
      m->soft.erase(owner);
    } else if (--m->hard[owner] == 0) {
      m->hard.erase(owner);
    }
  }
  void Hold() {
    const std::string group = GroupOf(KeyOf(random_() % kKeys));
    index_.Hold(1, group);
    ++holds_[group];
  }
  void Release() {
    const std::string group = GroupOf(KeyOf(random_() % kKeys));
    ASSERT_EQ(index_.Release(1, group), holds_.contains(group));
    if (holds_.contains(group) && --holds_[group] == 0) holds_.erase(group);
  }
  void Expire() {
    for (auto& [key, m] : live_) {
      std::erase_if(m.soft, [this](const auto& pin) { return pin.second <= now_; });
    }
  }
  void AddCopy() {
    std::string key;
    ModelObject* m = AnyLive(&key);
    if (m == nullptr) return;
    if (m->record == 0) {
      m->record = next_++;
      index_.AddRecord(m->object, m->record);
    } else if (m->leaving) {
      m->leaving = false;
      index_.EndLeaving(m->object);
    } else if (m->slot_generation == 0) {
      m->slot_generation = next_;
      index_.AddSlot(m->object, tier::Slot{next_ * 4096, m->bytes, next_, m->bytes + 7});
      held_slots_.insert(next_++);
    }
  }
  // The victim leaves the tier, or goes when it is in no other one, or is kept after all.
  void Evict(TierId tier) {
    uint32_t steps = 1000;
    Object* victim = index_.NextVictim(tier, steps);
    bool any = false, any_unfollowed = false;
    for (const auto& [key, m] : live_) {
      if (!In(m, tier) || Guarded(key, m, tier)) continue;
      any = true;
      any_unfollowed = any_unfollowed || !Followed(key, tier);
    }
    ASSERT_EQ(victim != nullptr, any);
    if (victim == nullptr) return;
    const std::string key(victim->key.key.bytes());
    ModelObject& m = live_.at(key);
    ASSERT_TRUE(In(m, tier));
    ASSERT_FALSE(Guarded(key, m, tier)) << key;
    ASSERT_EQ(!Followed(key, tier), any_unfollowed) << key;
    if (random_() % 4 == 0) {
      index_.KeepVictim(victim, tier);
      if (tier == TierId::kNvme || m.leaving) return;
      m.leaving = true;
      return index_.BeginLeaving(victim);
    }
    if (m.record == 0 || m.slot_generation == 0) {
      const ObjectIndex::Freed freed = index_.Drop(victim);
      ASSERT_EQ(freed.record, m.record);
      if (m.slot_generation != 0) Freed(freed.slot);
      live_.erase(key);
      return;
    }
    const ObjectIndex::Freed freed = index_.LeaveTier(victim, tier);
    if (tier == TierId::kHost) {
      Freed(freed.slot);
      m.slot_generation = 0;
      m.leaving = false;
    } else {
      ASSERT_EQ(freed.record, m.record);
      m.record = 0;
    }
  }

  static bool In(const ModelObject& m, TierId tier) {
    return (tier == TierId::kHost ? m.slot_generation : m.record) != 0;
  }
  bool Guarded(const std::string& key, const ModelObject& m, TierId tier) {
    const bool held = holds_.contains(GroupOf(key)) && (tier == TierId::kNvme || hold_guards_host_);
    return m.handles > 0 || !m.hard.empty() || !m.soft.empty() || held;
  }
  void Freed(const tier::Slot& slot) {
    ASSERT_EQ(held_slots_.erase(slot.generation), 1u) << "a slot was freed twice or never held";
  }
  void Check() {
    uint64_t bytes = 0;
    uint64_t slots = 0;
    size_t held = 0;
    PerTier<uint64_t> taken, guarded;
    std::vector<std::string> keys;
    for (const auto& [key, m] : live_) {
      bytes += m.bytes;
      if (m.slot_generation != 0) ++slots;
      for (TierId tier : kTiers) {
        if (!In(m, tier)) continue;
        const uint64_t in_tier = tier == TierId::kHost ? m.bytes + 7 : DiskBytes(m.bytes);
        taken[tier] += in_tier;
        if (Guarded(key, m, tier)) guarded[tier] += in_tier;
      }
      keys.push_back(key);
      ASSERT_EQ(index_.Find(FullKey{1, Key(key)}), m.object);
    }
    for (const auto& [object, m] : detached_) held += m.slot_generation != 0 ? 1 : 0;
    ASSERT_EQ(index_.objects(), live_.size());
    ASSERT_EQ(index_.object_bytes(), bytes);
    for (TierId tier : kTiers) {
      ASSERT_EQ(index_.tier_bytes(tier), taken[tier]);
      ASSERT_EQ(index_.guarded_bytes(tier), guarded[tier]);
    }
    ASSERT_EQ(held_slots_.size(), slots + held);
    std::vector<std::string> listed;
    index_.Scan(1, "", "", [&](const Object& object) {
      listed.emplace_back(object.key.key.bytes());
      return true;
    });
    ASSERT_EQ(listed, keys);
  }

  std::mt19937_64 random_;
  absl::Time now_ = kStart;
  uint64_t next_ = 1;
  ObjectIndex index_{MakeLruPolicy(), MakeLruPolicy()};
  bool hold_guards_host_ = false;
  std::map<std::string, ModelObject> live_;
  std::map<Object*, ModelObject> detached_;
  std::map<std::string, uint32_t> holds_;
  std::map<std::string, std::string> parents_;  // by group
  std::set<uint64_t> held_slots_;
};

TEST(ObjectIndexModelTest, AgreesWithNaiveModel) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomWalk walk(seed);
    for (int step = 0; step < 3000; ++step) {
      walk.Step();
      if (testing::Test::HasFatalFailure()) FAIL() << "at step " << step;
    }
  }
}

}  // namespace
}  // namespace varve::store
