// Random walks of the object index against a naive model.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
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
  uint64_t slot_generation = 0;
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
    switch (random_() % 12) {
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
        Evict();
        break;
      default:
        index_.ExpirePins(now_);
        Expire();
    }
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
    Object* published = index_.Publish(object, now_);
    ASSERT_EQ(published == nullptr, live_.contains(key));
    if (published == nullptr) return;
    live_[key] = ModelObject{.bytes = bytes, .slot_generation = generation, .object = published};
    held_slots_.insert(generation);
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
      Freed(*freed);
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
    ASSERT_EQ(freed.has_value(), m->handles == 0);
    if (freed) Freed(*freed);
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
  void Evict() {
    uint32_t steps = 1000;
    const auto evicted = index_.EvictNext(steps);
    std::optional<std::string> gone;
    bool any = false;
    for (const auto& [key, m] : live_) {
      any = any || !Guarded(key, m);
      if (evicted && m.slot_generation == evicted->slot.generation) gone = key;
    }
    ASSERT_EQ(evicted.has_value(), any);
    if (!evicted) return;
    ASSERT_TRUE(gone.has_value());
    ASSERT_FALSE(Guarded(*gone, live_[*gone])) << *gone;
    Freed(evicted->slot);
    live_.erase(*gone);
  }

  bool Guarded(const std::string& key, const ModelObject& m) {
    return m.handles > 0 || !m.hard.empty() || !m.soft.empty() || holds_.contains(GroupOf(key));
  }
  void Freed(const tier::Slot& slot) {
    ASSERT_EQ(held_slots_.erase(slot.generation), 1u) << "a slot was freed twice or never held";
  }
  void Check() {
    uint64_t bytes = 0;
    uint64_t slots = 0;
    uint64_t guarded = 0;
    std::vector<std::string> keys;
    for (const auto& [key, m] : live_) {
      bytes += m.bytes;
      slots += m.bytes + 7;
      if (Guarded(key, m)) guarded += m.bytes + 7;
      keys.push_back(key);
      ASSERT_EQ(index_.Find(FullKey{1, Key(key)}), m.object);
    }
    ASSERT_EQ(index_.objects(), live_.size());
    ASSERT_EQ(index_.object_bytes(), bytes);
    ASSERT_EQ(index_.slot_bytes(), slots);
    ASSERT_EQ(index_.guarded_bytes(), guarded);
    ASSERT_EQ(held_slots_.size(), live_.size() + detached_.size());
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
  ObjectIndex index_{MakeLruPolicy()};
  std::map<std::string, ModelObject> live_;
  std::map<Object*, ModelObject> detached_;
  std::map<std::string, uint32_t> holds_;
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
