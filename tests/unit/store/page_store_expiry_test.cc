// Objects that expire: when looked up, with time, after a restart, and not while they are kept.
#include <algorithm>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/store/disk_fixture.h"

namespace varve::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kTtl = absl::Seconds(10);

// Without a use of the disk unless something is demoted or flushed.
class PageStoreExpiryTest : public testing::Test {
 protected:
  void Put(std::string_view name, absl::Duration ttl) {
    const auto answer =
        f_.Put(name, 0, {.bytes = DiskFixture::kSlot, .expires = f_.clock().Now() + ttl});
    f_.Settle();
    ASSERT_TRUE(answer->has_value() && (*answer)->ok());
  }
  bool Reads(std::string_view name) { return f_.Read(name) == 0; }
  bool Stored(std::string_view name) const { return f_.store().Exists(f_.ns(), f_.Key(name)); }

  mutable DiskFixture f_{{}};
};

TEST_F(PageStoreExpiryTest, WhoLooksFindsNothingFromThenOn) {
  Put("short", kTtl);
  Put("long", 2 * kTtl);
  f_.clock().Advance(kTtl - absl::Milliseconds(1));
  EXPECT_TRUE(Reads("short"));
  f_.clock().Advance(absl::Milliseconds(1));
  EXPECT_FALSE(Stored("short"));
  EXPECT_FALSE(Reads("short"));
  EXPECT_EQ(f_.last_miss(), MissReason::kExpired);
  EXPECT_FALSE(f_.store().Pin(f_.ns(), f_.Key("short"), 1, absl::InfiniteDuration()));
  EXPECT_TRUE(Reads("long"));
  EXPECT_EQ(f_.store().Usage().objects, 1u);
}

TEST_F(PageStoreExpiryTest, TimeDropsWhatNobodyLooksAt) {
  for (int i = 0; i < 8; ++i) Put("many" + std::to_string(i), kTtl);
  Put("never", absl::InfiniteDuration());
  const uint64_t used = f_.host().Usage().used_bytes;
  f_.clock().Advance(kTtl);
  f_.store().Tick();
  EXPECT_EQ(f_.store().Usage().objects, 1u);
  EXPECT_EQ(f_.host().Usage().used_bytes, used - 8 * DiskFixture::kSlot);
  EXPECT_FALSE(Reads("many3"));
  EXPECT_EQ(f_.last_miss(), MissReason::kExpired);
  EXPECT_TRUE(Reads("never"));
}

TEST(PageStoreListTest, LeavesOutWhatHasExpiredBeforeItIsCollected) {
  const auto host = *tier::HostTier::Create({.capacity_bytes = 4 << 20});
  testing_support::ManualClock clock;
  const auto store = *PageStore::Create(host.get(), {}, &clock);
  const NamespaceId ns = *store->InternNamespace("model");
  const auto put = [&](const std::string& name, absl::Duration ttl) {
    const page::ObjectKey key = *page::ObjectKey::FromBytes(name);
    auto reserved = store->Reserve(ns, key, {.bytes = 64, .expires = clock.Now() + ttl});
    ASSERT_TRUE(reserved.ok()) << reserved.status();
    (*reserved)->Commit(std::nullopt, [](const absl::Status&) {});
  };
  const auto name = [](int i) { return "value-" + std::to_string(1000 + i); };
  constexpr int kValues = 600;  // more than are looked at under one lock
  for (int i = 0; i < kValues; ++i) put(name(i), i % 200 == 0 ? 2 * kTtl : kTtl);
  put("value-pinned", kTtl);
  EXPECT_TRUE(store->Pin(ns, *page::ObjectKey::FromBytes("value-pinned"), 1, 2 * kTtl));
  const auto listed = [&](size_t limit) {
    std::vector<std::string> names;
    for (const ObjectRow& row : store->List(ns, "value-", "", limit)) {
      names.emplace_back(row.key.bytes());
    }
    return names;
  };
  EXPECT_EQ(listed(1000).size(), kValues + 1u);
  EXPECT_EQ(listed(300).size(), 300u);
  clock.Advance(kTtl);
  EXPECT_THAT(listed(1000), ElementsAre(name(0), name(200), name(400), "value-pinned"));
  EXPECT_THAT(listed(2), ElementsAre(name(0), name(200)));
  clock.Advance(kTtl);
  EXPECT_THAT(listed(1000), IsEmpty());
}

TEST_F(PageStoreExpiryTest, ItsKeyMayBeStoredAgain) {
  Put("name", kTtl);
  f_.clock().Advance(kTtl);
  Put("name", kTtl);
  EXPECT_TRUE(Reads("name"));
  f_.clock().Advance(kTtl);
  f_.store().Tick();
  EXPECT_FALSE(Reads("name"));
}

TEST_F(PageStoreExpiryTest, AnotherPutCanOnlyMakeItStayLonger) {
  const auto again = [&](std::string_view name, absl::Duration ttl) {
    const auto answer =
        f_.Put(name, 1, {.bytes = DiskFixture::kSlot, .expires = f_.clock().Now() + ttl});
    ASSERT_TRUE(answer->has_value());
    EXPECT_EQ((*answer)->code(), absl::StatusCode::kAlreadyExists);
  };
  for (const char* name : {"longer", "shorter", "for-ever"}) Put(name, kTtl);
  Put("never", absl::InfiniteDuration());
  again("longer", 3 * kTtl);
  again("shorter", kTtl / 2);
  again("for-ever", absl::InfiniteDuration());
  again("never", kTtl);
  // Two writers at once: who comes second has reserved before.
  auto second = f_.store().Reserve(f_.ns(), f_.Key("both"), {.bytes = DiskFixture::kSlot});
  ASSERT_TRUE(second.ok());
  Put("both", kTtl);
  std::optional<absl::Status> lost;
  (*second)->Commit(std::nullopt, [&](absl::Status status) { lost = std::move(status); });
  ASSERT_TRUE(lost.has_value() && absl::IsAlreadyExists(*lost));

  f_.clock().Advance(kTtl);
  f_.store().Tick();
  EXPECT_FALSE(Stored("shorter"));
  for (const char* name : {"longer", "for-ever", "never", "both"}) EXPECT_TRUE(Reads(name)) << name;
  f_.clock().Advance(2 * kTtl);
  f_.store().Tick();
  EXPECT_FALSE(Stored("longer"));
  EXPECT_EQ(f_.store().Usage().objects, 3u) << "it is dropped at its new time";
  EXPECT_TRUE(Reads("for-ever")) << "and its bytes are the first ones";
}

// The label of a record is written with it.
TEST_F(PageStoreExpiryTest, ARecordHasTheTimeOfItsWriting) {
  Put("before", kTtl);
  Put("after", kTtl);
  const auto prolong = [&](const char* name) {
    f_.Put(name, 0, {.bytes = DiskFixture::kSlot, .expires = f_.clock().Now() + 3 * kTtl});
  };
  prolong("before");
  f_.store().Flush([](const absl::Status&) {});
  f_.Settle();
  prolong("after");
  EXPECT_EQ(f_.Disk().objects, 2u);
  f_.clock().Advance(kTtl);
  EXPECT_TRUE(Stored("before"));
  EXPECT_TRUE(Stored("after"));
  f_.Crash();
  EXPECT_TRUE(Stored("before"));
  EXPECT_FALSE(Stored("after"));
}

TEST_F(PageStoreExpiryTest, AnOpenHandleKeepsTheBytesAndNotTheObject) {
  Put("name", kTtl);
  const auto open = f_.store().Acquire(f_.ns(), f_.Key("name"), nullptr);
  ASSERT_NE(open, nullptr);
  f_.clock().Advance(kTtl);
  f_.store().Tick();
  EXPECT_FALSE(Stored("name"));
  EXPECT_TRUE(std::ranges::equal(open->memory(), f_.Value(f_.VersionName("name", 0))));
}

TEST_F(PageStoreExpiryTest, APinKeepsItUntilItFalls) {
  Put("hard", kTtl);
  Put("soft", kTtl);
  EXPECT_TRUE(f_.store().Pin(f_.ns(), f_.Key("hard"), 1, absl::InfiniteDuration()));
  EXPECT_TRUE(f_.store().Pin(f_.ns(), f_.Key("soft"), 1, 2 * kTtl));
  f_.clock().Advance(kTtl);
  f_.store().Tick();
  EXPECT_TRUE(Reads("hard"));
  EXPECT_TRUE(Reads("soft"));
  EXPECT_TRUE(f_.store().Unpin(f_.ns(), f_.Key("hard"), 1));
  EXPECT_FALSE(Stored("hard"));
  f_.clock().Advance(kTtl);
  f_.store().Tick();
  EXPECT_EQ(f_.store().Usage().objects, 0u) << "looked at again, both";
  EXPECT_FALSE(Reads("soft"));
  EXPECT_EQ(f_.last_miss(), MissReason::kExpired);
}

TEST_F(PageStoreExpiryTest, AHoldKeepsItUntilItIsLetGo) {
  const std::vector<std::string> block = {"block-of-a-context"};
  const std::string name = block[0] + std::string("\0\0\0\1", 4);
  Put(name, kTtl);
  f_.store().Hold(f_.ns(), block);
  f_.clock().Advance(kTtl);
  f_.store().Tick();
  EXPECT_TRUE(Reads(name));
  f_.store().Release(f_.ns(), block);
  EXPECT_FALSE(Reads(name));
  EXPECT_EQ(f_.last_miss(), MissReason::kExpired);
}

TEST_F(PageStoreExpiryTest, TheTimeOutlivesARestart) {
  ObjectMeta meta{.bytes = DiskFixture::kSlot,
                  .prompt_tokens = 12345,
                  .tokens = 678,
                  .expires = f_.clock().Now() + 2 * kTtl};
  f_.Put("long", 0, meta);
  Put("short", kTtl);
  Put("never", absl::InfiniteDuration());
  bool flushed = false;
  f_.store().Flush([&](const absl::Status& status) { flushed = status.ok(); });
  f_.Settle();
  ASSERT_TRUE(flushed);
  f_.clock().Advance(kTtl);
  f_.Crash();
  EXPECT_FALSE(Reads("short"));
  EXPECT_EQ(f_.last_miss(), MissReason::kExpired);
  const std::vector<ObjectRow> rows = f_.store().List(f_.ns(), "", "", 10);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].key, f_.Key("long"));
  EXPECT_EQ(rows[0].meta.prompt_tokens, 12345u);
  EXPECT_EQ(rows[0].meta.tokens, 678u);
  EXPECT_EQ(rows[0].meta.expires, meta.expires);
  EXPECT_EQ(rows[1].meta.expires, absl::InfiniteFuture());
  f_.Settle();
  EXPECT_EQ(f_.Disk().log.records, 2u) << "its record is gone too";
  f_.clock().Advance(kTtl);
  EXPECT_FALSE(Reads("long"));
  EXPECT_TRUE(Reads("never"));
}

// Its record would come back with the next start: it has the time, too.
TEST_F(PageStoreExpiryTest, WhatExpiresWhileItIsWrittenIsGone) {
  f_.Put("name", 0, {.bytes = DiskFixture::kSlot, .expires = f_.clock().Now() + kTtl});
  f_.store().Flush([](const absl::Status&) {});
  f_.clock().Advance(kTtl);
  f_.store().Tick();
  EXPECT_FALSE(Stored("name"));
  f_.Settle();
  EXPECT_EQ(f_.store().Usage().objects, 0u);
  EXPECT_EQ(f_.host().Usage().used_bytes, 0u);
  f_.Crash();
  EXPECT_FALSE(Stored("name"));
}

}  // namespace
}  // namespace varve::store
