// The object index as a state machine: each transition. Random walks: object_index_model_test.cc.
#include "kvstore/store/object_index.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/store/cost_policy.h"
#include "kvstore/store/lru_policy.h"

namespace varve::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const absl::Time kStart = absl::FromUnixSeconds(1'800'000'000);

page::ObjectKey Key(std::string_view bytes) { return *page::ObjectKey::FromBytes(bytes); }

class ObjectIndexTest : public testing::Test {
 protected:
  std::unique_ptr<Object> Reserved(std::string_view key, uint64_t bytes = 100, NamespaceId ns = 1) {
    auto object = std::make_unique<Object>();
    object->key = FullKey{ns, Key(key)};
    object->meta.bytes = bytes;
    object->slot = tier::Slot{next_slot_++ * 4096, bytes, next_slot_, bytes};
    return object;
  }
  Object* Put(std::string_view key, uint64_t bytes = 100, NamespaceId ns = 1) {
    std::unique_ptr<Object> object = Reserved(key, bytes, ns);
    return index_.Publish(object, kStart);
  }
  // Drops one; answers the key's identity or nothing.
  std::optional<uint64_t> EvictOne(TierId tier = TierId::kHost) {
    uint32_t steps = 1000;
    Object* victim = index_.NextVictim(tier, steps);
    if (victim == nullptr) return std::nullopt;
    const uint64_t identity = victim->identity;
    index_.Drop(victim);
    return identity;
  }
  uint64_t GuardedBytes(TierId tier = TierId::kHost) { return index_.guarded_bytes(tier); }
  static bool FreesSlot(const ObjectIndex::Freed& freed) { return freed.slot.bytes > 0; }
  static uint64_t Identity(std::string_view key, NamespaceId ns = 1) {
    return absl::Hash<FullKey>()(FullKey{ns, Key(key)});
  }
  std::vector<std::string> Listed(std::string_view prefix, std::string_view after) {
    std::vector<std::string> keys;
    index_.Scan(1, prefix, after, [&](const Object& object) {
      keys.emplace_back(object.key.key.bytes());
      return true;
    });
    return keys;
  }

  uint64_t next_slot_ = 1;
  ObjectIndex index_{MakeLruPolicy(), nullptr};
};

class TwoTiersTest : public ObjectIndexTest {
 protected:
  TwoTiersTest() : tiers_(MakeLruPolicy(), MakeLruPolicy()) {}
  Object* PutBoth(std::string_view key, uint64_t bytes = 100) {
    std::unique_ptr<Object> object = Reserved(key, bytes);
    object->record = next_slot_;
    return tiers_.Publish(object, kStart);
  }
  Object* Victim(TierId tier) {
    uint32_t steps = 1000;
    return tiers_.NextVictim(tier, steps);
  }
  ObjectIndex tiers_;
};

TEST_F(ObjectIndexTest, ReservedObjectsAreInNoTable) {
  std::unique_ptr<Object> object = Reserved("key-1");
  EXPECT_EQ(object->state, ObjectState::kReserved);
  EXPECT_EQ(index_.Find(object->key), nullptr);
  EXPECT_EQ(index_.objects(), 0u);
  EXPECT_FALSE(FreesSlot(index_.Drop(object.get())));
  EXPECT_EQ(object->state, ObjectState::kReserved);
}

TEST_F(ObjectIndexTest, FirstToPublishWins) {
  std::unique_ptr<Object> first = Reserved("key-1");
  std::unique_ptr<Object> second = Reserved("key-1");
  Object* winner = index_.Publish(second, kStart);
  ASSERT_NE(winner, nullptr);
  EXPECT_EQ(second, nullptr) << "the index owns it now";
  EXPECT_EQ(index_.Publish(first, kStart), nullptr);
  ASSERT_NE(first, nullptr) << "the loser keeps its object";
  EXPECT_EQ(first->state, ObjectState::kReserved);
  EXPECT_EQ(index_.Find(winner->key), winner);
  EXPECT_EQ(index_.objects(), 1u);
}

TEST_F(ObjectIndexTest, NamespacesAreApart) {
  Put("key-1", 100, 1);
  Put("key-1", 100, 2);
  EXPECT_EQ(index_.objects(), 2u);
  EXPECT_EQ(index_.Find(FullKey{3, Key("key-1")}), nullptr);
}

TEST_F(ObjectIndexTest, DropFreesAtOnceWithoutHandles) {
  Object* object = Put("key-1");
  const tier::Slot slot = object->slot;
  const auto freed = index_.Drop(object);
  ASSERT_TRUE(FreesSlot(freed));
  EXPECT_EQ(freed.slot.generation, slot.generation);
  EXPECT_EQ(index_.objects(), 0u);
  EXPECT_EQ(index_.object_bytes(), 0u);
  EXPECT_EQ(index_.groups(), 0u);
}

TEST_F(ObjectIndexTest, DropWithHandlesFreesWithTheLast) {
  Object* object = Put("key-1");
  index_.Open(object, kStart);
  index_.Open(object, kStart);
  EXPECT_FALSE(FreesSlot(index_.Drop(object)));
  EXPECT_EQ(object->state, ObjectState::kGone);
  EXPECT_EQ(index_.Find(FullKey{1, Key("key-1")}), nullptr);
  EXPECT_EQ(GuardedBytes(), 0u);
  EXPECT_FALSE(FreesSlot(index_.Drop(object))) << "gone is final";
  // The key may live again while the old bytes are still read.
  EXPECT_NE(Put("key-1"), nullptr);
  EXPECT_EQ(index_.Close(object), std::nullopt);
  EXPECT_TRUE(index_.Close(object).has_value());
  EXPECT_EQ(index_.objects(), 1u);
}

// Blocks of a chain, put head first.
TEST_F(ObjectIndexTest, AChainLeavesFromItsEndAndLooksAtEachObjectTwice) {
  constexpr int kBlocks = 1000;
  const auto key = [](int block) { return std::to_string(10000 + block) + "-lay0"; };
  for (int i = 0; i < kBlocks; ++i) {
    std::unique_ptr<Object> object = Reserved(key(i));
    if (i > 0) index_.Expect(object.get(), BlockOf(Key(key(i - 1))));
    ASSERT_NE(index_.Publish(object, kStart), nullptr);
  }
  EXPECT_EQ(index_.groups(), static_cast<size_t>(kBlocks));
  uint32_t steps = 2 * kBlocks;
  for (int i = kBlocks; i-- > 0;) {
    Object* victim = index_.NextVictim(TierId::kHost, steps);
    ASSERT_NE(victim, nullptr) << i;
    ASSERT_EQ(victim->key.key, Key(key(i)));
    index_.Drop(victim);
  }
  EXPECT_EQ(index_.groups(), 0u);
}

TEST_F(ObjectIndexTest, WhatIsBeingPutKeepsWhatItFollows) {
  Put("block-1-lay0");
  std::unique_ptr<Object> next = Reserved("block-2-lay0");
  index_.Expect(next.get(), "block-1-");
  EXPECT_EQ(EvictOne(), std::nullopt);
  index_.Abandon(next.get());
  EXPECT_EQ(EvictOne(), Identity("block-1-lay0"));
  EXPECT_EQ(index_.groups(), 0u);
}

// A prompt's head is used with another continuation: it is then as young as that.
TEST_F(ObjectIndexTest, WhatWasUsedWhileItWaitedIsYoung) {
  Object* head = Put("block-1-lay0");
  std::unique_ptr<Object> tail = Reserved("block-2-lay0");
  index_.Expect(tail.get(), "block-1-");
  index_.Publish(tail, kStart);
  Put("block-3-lay0");
  uint32_t steps = 2;
  EXPECT_EQ(index_.NextVictim(TierId::kHost, steps)->key.key, Key("block-2-lay0"));
  index_.KeepVictim(index_.Find(FullKey{1, Key("block-2-lay0")}), TierId::kHost);
  index_.Open(head, kStart);
  index_.Close(head);
  EXPECT_EQ(EvictOne(), Identity("block-3-lay0"));
  EXPECT_EQ(EvictOne(), Identity("block-2-lay0"));
  EXPECT_EQ(EvictOne(), Identity("block-1-lay0"));
}

TEST_F(TwoTiersTest, WhereAnObjectMovesOnlyWhatIsBesideItKeepsIt) {
  Object* head = PutBoth("block-1-lay0");
  std::unique_ptr<Object> tail = Reserved("block-2-lay0");
  tail->record = 99;
  tiers_.Expect(tail.get(), "block-1-");
  Object* followed = tiers_.Publish(tail, kStart);
  EXPECT_EQ(Victim(TierId::kHost), followed);
  tiers_.KeepVictim(followed, TierId::kHost);
  tiers_.BeginLeaving(followed);  // on its way to disk: the head may go at the same time
  EXPECT_EQ(Victim(TierId::kHost), head);
  tiers_.KeepVictim(head, TierId::kHost);
  tiers_.LeaveTier(followed, TierId::kHost);
  // On disk the tail leaves first, and while it is stored it keeps the head there.
  EXPECT_EQ(Victim(TierId::kNvme), followed);
  tiers_.KeepVictim(followed, TierId::kNvme);
  tiers_.HoldsGuardHost(true);  // now leaving memory loses what is not on disk: the head is
  EXPECT_EQ(Victim(TierId::kHost), head);
}

TEST_F(TwoTiersTest, CopiesComeAndGoUntilTheLast) {
  std::unique_ptr<Object> reserved = Reserved("key-1", 100);
  const tier::Slot first = reserved->slot;
  Object* object = tiers_.Publish(reserved, kStart);
  EXPECT_EQ(Victim(TierId::kNvme), nullptr);
  tiers_.AddRecord(object, 7);
  EXPECT_EQ(tiers_.tier_bytes(TierId::kNvme), DiskBytes(100));
  EXPECT_EQ(tiers_.LeaveTier(object, TierId::kHost).slot.generation, first.generation);
  EXPECT_EQ(object->tier(), TierId::kNvme);
  EXPECT_EQ(tiers_.tier_bytes(TierId::kHost), 0u);
  EXPECT_EQ(Victim(TierId::kHost), nullptr);
  EXPECT_EQ(tiers_.Find(object->key), object);
  tiers_.AddSlot(object, tier::Slot{1 << 20, 100, 99, 512});
  EXPECT_EQ(tiers_.tier_bytes(TierId::kHost), 512u);
  EXPECT_EQ(tiers_.LeaveTier(object, TierId::kNvme).record, 7u);
  EXPECT_EQ(object->tier(), TierId::kHost);
  EXPECT_EQ(tiers_.Drop(object).slot.generation, 99u);
  EXPECT_EQ(tiers_.objects(), 0u);
}

TEST_F(TwoTiersTest, DropAnswersBothCopiesAndTheRecordAtOnce) {
  Object* object = PutBoth("key-1");
  const tier::RecordId record = object->record;
  tiers_.Open(object, kStart);
  const ObjectIndex::Freed freed = tiers_.Drop(object);
  EXPECT_EQ(freed.record, record);
  EXPECT_FALSE(FreesSlot(freed)) << "somebody reads it";
  EXPECT_TRUE(tiers_.Close(object).has_value());
}

TEST_F(TwoTiersTest, AVictimLeavesItsPolicyUntilKept) {
  Object* object = PutBoth("key-1");
  EXPECT_EQ(Victim(TierId::kHost), object);
  EXPECT_EQ(Victim(TierId::kHost), nullptr);
  tiers_.KeepVictim(object, TierId::kHost);
  EXPECT_EQ(Victim(TierId::kHost), object);
  tiers_.LeaveTier(object, TierId::kHost);
  EXPECT_EQ(Victim(TierId::kNvme), object);
  tiers_.Drop(object);
}

TEST_F(TwoTiersTest, AHoldKeepsFromLossAndNotFromMoving) {
  Object* object = PutBoth("block-hash-0001");
  tiers_.Hold(1, "block-hash-");
  EXPECT_EQ(tiers_.guarded_bytes(TierId::kHost), 0u);
  EXPECT_EQ(tiers_.guarded_bytes(TierId::kNvme), DiskBytes(100));
  EXPECT_EQ(Victim(TierId::kNvme), nullptr);
  EXPECT_EQ(Victim(TierId::kHost), object);
  tiers_.KeepVictim(object, TierId::kHost);
  // The disk is gone.
  tiers_.HoldsGuardHost(true);
  EXPECT_EQ(tiers_.guarded_bytes(TierId::kHost), 100u);
  EXPECT_EQ(Victim(TierId::kHost), nullptr);
  // And there again.
  tiers_.HoldsGuardHost(false);
  EXPECT_EQ(tiers_.guarded_bytes(TierId::kHost), 0u);
  EXPECT_EQ(Victim(TierId::kHost), object);
  tiers_.KeepVictim(object, TierId::kHost);
  EXPECT_TRUE(tiers_.Release(1, "block-hash-"));
  EXPECT_EQ(Victim(TierId::kNvme), object);
}

TEST_F(TwoTiersTest, AHandleGuardsBothCopies) {
  Object* object = PutBoth("key-1");
  tiers_.OpenUnused(object);
  EXPECT_EQ(Victim(TierId::kHost), nullptr);
  EXPECT_EQ(Victim(TierId::kNvme), nullptr);
  tiers_.Close(object);
  EXPECT_EQ(Victim(TierId::kHost), object);
  EXPECT_EQ(Victim(TierId::kNvme), object);
}

TEST_F(ObjectIndexTest, GuardedBytesCountEachObjectOnce) {
  Object* object = Put("block-hash-0001", 100);
  Put("block-hash-0002", 30);
  EXPECT_EQ(GuardedBytes(), 0u);
  index_.Hold(1, "block-hash-");
  EXPECT_EQ(GuardedBytes(), 130u);
  index_.Open(object, kStart);
  index_.Pin(object, 7, absl::InfiniteFuture());
  EXPECT_EQ(GuardedBytes(), 130u);
  EXPECT_TRUE(index_.Release(1, "block-hash-"));
  EXPECT_EQ(GuardedBytes(), 100u);
  index_.Close(object);
  EXPECT_EQ(GuardedBytes(), 100u);
  EXPECT_TRUE(index_.Unpin(object, 7));
  EXPECT_EQ(GuardedBytes(), 0u);
}

// What the recalls of an attached context used counts when the context is gone.
TEST(ObjectIndexUsesTest, UsesUnderAHoldCount) {
  ObjectIndex index(MakeCostPolicy(), nullptr);
  index.Hold(1, "block-hash-");
  std::vector<Object*> objects;
  for (const char* key : {"block-hash-0001", "block-hash-0002", "block-hash-0003"}) {
    auto object = std::make_unique<Object>();
    object->key = FullKey{1, Key(key)};
    object->meta.bytes = 100;
    object->slot = tier::Slot{4096 * (objects.size() + 1), 100, objects.size() + 1, 100};
    objects.push_back(index.Publish(object, kStart));
  }
  uint32_t steps = 1000;
  EXPECT_EQ(index.NextVictim(TierId::kHost, steps), nullptr) << "all leave the policy";
  for (int i = 0; i < 3; ++i) {
    index.Open(objects[2], kStart);
    index.Close(objects[2]);
  }
  index.Release(1, "block-hash-");
  for (int i : {1, 0, 2}) {
    Object* victim = index.NextVictim(TierId::kHost, steps);
    ASSERT_EQ(victim, objects[i]) << i;
    index.Drop(victim);
  }
}

TEST_F(ObjectIndexTest, HoldsAreCountedAndCoverWhatComesLater) {
  index_.Hold(1, "block-hash-");
  index_.Hold(1, "block-hash-");
  Put("block-hash-0001");
  EXPECT_EQ(EvictOne(), std::nullopt);
  EXPECT_TRUE(index_.Release(1, "block-hash-"));
  EXPECT_EQ(EvictOne(), std::nullopt);
  EXPECT_TRUE(index_.Release(1, "block-hash-"));
  EXPECT_FALSE(index_.Release(1, "block-hash-")) << "released more often than held";
  EXPECT_EQ(EvictOne(), Identity("block-hash-0001"));
  EXPECT_EQ(index_.groups(), 0u) << "groups without objects and holds take no memory";
}

TEST_F(ObjectIndexTest, ShortKeysHaveNoGroup) {
  index_.Hold(1, "abc");
  Put("abc1234");
  EXPECT_EQ(EvictOne(), Identity("abc1234"));
  index_.Release(1, "abc");
  index_.Hold(1, "abcd");
  Put("abcd1234");
  EXPECT_EQ(EvictOne(), std::nullopt);
  index_.Hold(2, "xxxx");
  Put("xxxx1234");
  EXPECT_EQ(EvictOne(), Identity("xxxx1234")) << "a hold of another namespace";
}

TEST_F(ObjectIndexTest, PinsBelongToOwners) {
  Object* object = Put("key-1");
  index_.Pin(object, 7, absl::InfiniteFuture());
  index_.Pin(object, 7, absl::InfiniteFuture());
  index_.Pin(object, 8, absl::InfiniteFuture());
  EXPECT_EQ(object->pin_count(), 3u);
  EXPECT_FALSE(index_.Unpin(object, 9));
  EXPECT_TRUE(index_.Unpin(object, 7));
  EXPECT_FALSE(index_.UnpinSome(7, 10));
  EXPECT_FALSE(index_.Unpin(object, 7));
  EXPECT_EQ(EvictOne(), std::nullopt);
  EXPECT_TRUE(index_.Unpin(object, 8));
  EXPECT_EQ(EvictOne(), Identity("key-1"));
}

TEST_F(ObjectIndexTest, UnpinSomeStopsAtItsLimit) {
  for (int i = 0; i < 5; ++i) {
    index_.Pin(Put("key-" + std::to_string(i)), 7, absl::InfiniteFuture());
  }
  EXPECT_TRUE(index_.UnpinSome(7, 3));
  EXPECT_EQ(GuardedBytes(), 200u);
  EXPECT_FALSE(index_.UnpinSome(7, 3));
  EXPECT_EQ(GuardedBytes(), 0u);
}

TEST_F(ObjectIndexTest, SoftPinsLapseAndOnlyGrow) {
  Object* object = Put("key-1");
  index_.Pin(object, 7, kStart + absl::Seconds(10));
  index_.Pin(object, 7, kStart + absl::Seconds(5));
  EXPECT_EQ(object->pin_count(), 1u);
  index_.ExpirePins(kStart + absl::Seconds(9));
  EXPECT_EQ(object->pin_count(), 1u) << "a shorter pin does not shorten a longer one";
  index_.Pin(object, 7, absl::InfiniteFuture());
  index_.ExpirePins(kStart + absl::Seconds(10));
  EXPECT_EQ(object->pin_count(), 1u) << "the hard pin stays";
  EXPECT_TRUE(index_.Unpin(object, 7));
  EXPECT_EQ(GuardedBytes(), 0u);
  index_.Pin(object, 7, kStart + absl::Seconds(20));
  index_.Drop(object);
  index_.ExpirePins(kStart + absl::Seconds(20));
}

TEST_F(ObjectIndexTest, EvictionStopsWhenItsStepsRunOut) {
  for (int i = 0; i < 5; ++i) {
    index_.Pin(Put("key-" + std::to_string(i)), 7, absl::InfiniteFuture());
  }
  Put("last");
  uint32_t steps = 5;
  EXPECT_EQ(index_.NextVictim(TierId::kHost, steps), nullptr);
  EXPECT_EQ(steps, 0u);
  steps = 1;
  EXPECT_NE(index_.NextVictim(TierId::kHost, steps), nullptr) << "guarded objects were put aside";
}

TEST_F(ObjectIndexTest, EvictsLeastRecentlyOpened) {
  Object* first = Put("key-1");
  Put("key-2");
  index_.Open(first, kStart);
  index_.Close(first);
  EXPECT_EQ(EvictOne(), Identity("key-2"));
  EXPECT_EQ(EvictOne(), Identity("key-1"));
  EXPECT_EQ(EvictOne(), std::nullopt);
}

TEST_F(ObjectIndexTest, ScanIsAscendingWithPrefixAndStart) {
  // 8-byte heads that tie, zero bytes, a byte above 0x7f, and a key that is another's prefix.
  const std::vector<std::string> keys = {
      std::string("aaaa"),         std::string("aaaa\0", 5),    std::string("aaaa\0\0\0\0\0", 9),
      std::string("aaaaaaaa0001"), std::string("aaaaaaaa0002"), std::string("aaab"),
      std::string("b\x80zz"),      std::string("b\xffzz")};
  for (size_t i = keys.size(); i-- > 0;) Put(keys[i]);
  Put("aaaa", 100, 2);
  EXPECT_EQ(Listed("", ""), keys);
  EXPECT_THAT(Listed("aaaaaaaa", ""), ElementsAre("aaaaaaaa0001", "aaaaaaaa0002"));
  EXPECT_THAT(Listed("aaaaaaaa", "aaaaaaaa0001"), ElementsAre("aaaaaaaa0002"));
  EXPECT_THAT(Listed("aaaaaaaa", "b"), IsEmpty());
  EXPECT_THAT(Listed("b", "aaaa"), ElementsAre(keys[6], keys[7]));
  EXPECT_EQ(Listed("", "aaaa").size(), keys.size() - 1);
}

}  // namespace
}  // namespace varve::store
