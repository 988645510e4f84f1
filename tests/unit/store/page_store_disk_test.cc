// The page store over a disk, step by step.
#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/store/record_label.h"
#include "tests/unit/store/disk_fixture.h"

namespace varve::store {
namespace {

constexpr uint64_t kSlot = DiskFixture::kSlot;

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PageStoreDiskTest, AFullMemoryMovesDownAndLosesNothing) {
  DiskFixture f({});
  Fill(f, 0, 40);
  EXPECT_EQ(f.store().Usage().objects, 40u);
  EXPECT_LE(f.store().Usage().host_objects, DiskFixture::kHostSlots);
  EXPECT_EQ(f.store().Usage().eviction.evicted_objects, 0u);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(f.Read(Name(i)), 0) << i;
  EXPECT_EQ(f.Read(Name(0)), 0);
  EXPECT_EQ(f.Disk().queued_objects, 0u);
}

TEST(PageStoreDiskTest, AFullDiskLosesTheOldest) {
  DiskFixture f({.disk_slots = 20});
  Fill(f, 0, 60);
  EXPECT_EQ(f.Read(Name(59)), 0);
  EXPECT_EQ(f.Read(Name(0)), std::nullopt);
  EXPECT_EQ(f.last_miss(), MissReason::kEvicted);
  EXPECT_GT(f.Disk().eviction.evicted_objects, 0u);
  EXPECT_LE(f.log().Usage().live_bytes, 20 * kSlot);
}

TEST(PageStoreDiskTest, WhatIsReadTwiceComesBackToMemory) {
  DiskFixture f({});
  Fill(f, 0, 40);
  EXPECT_EQ(f.Read(Name(0)), 0);
  EXPECT_EQ(f.last_tier(), TierId::kNvme);
  f.Settle();
  EXPECT_EQ(f.Read(Name(0)), 0);
  EXPECT_EQ(f.last_tier(), TierId::kNvme) << "read once: not yet";
  f.Settle();
  EXPECT_EQ(f.Read(Name(0)), 0);
  EXPECT_EQ(f.last_tier(), TierId::kHost);
}

TEST(PageStoreDiskTest, PrefetchBringsBackAtOnce) {
  DiskFixture f({.promote_uses = 0});
  Fill(f, 0, 40);
  const page::ObjectKey keys[] = {f.Key(Name(0)), f.Key(Name(1)), f.Key("unknown")};
  EXPECT_THAT(f.store().Prefetch(f.ns(), keys),
              ElementsAre(Prefetched::kBegun, Prefetched::kBegun, Prefetched::kNotStored));
  f.Settle();
  EXPECT_EQ(f.Read(Name(1)), 0);
  EXPECT_EQ(f.last_tier(), TierId::kHost);
  EXPECT_THAT(f.store().Prefetch(f.ns(), keys),
              ElementsAre(Prefetched::kInMemory, Prefetched::kInMemory, Prefetched::kNotStored));
}

TEST(PageStoreDiskTest, MoreThanIsFetchedAtATimeIsAskedForAgain) {
  DiskFixture f({.disk_slots = 2000, .promote_uses = 0});
  Fill(f, 0, 1500);
  std::vector<page::ObjectKey> keys;
  for (int i = 0; i < 1400; ++i) keys.push_back(f.Key(Name(i)));
  const auto results = f.store().Prefetch(f.ns(), keys);
  EXPECT_EQ(std::count(results.begin(), results.end(), Prefetched::kBegun), 1024);
  EXPECT_EQ(std::count(results.begin(), results.end(), Prefetched::kBusy), 1400 - 1024);
  f.Settle();
  EXPECT_EQ(f.store().Prefetch(f.ns(), std::span(keys).last(1))[0], Prefetched::kBegun);
}

TEST(PageStoreDiskTest, NamespacesAreListedInTheOrderOfTheirFirstUse) {
  DiskFixture f({});
  for (const char* name : {"first", "second", "first"}) {
    ASSERT_TRUE(f.store().InternNamespace(name).ok());
  }
  EXPECT_THAT(f.store().ListNamespaces(1, 10), ElementsAre("model", "first", "second"));
  EXPECT_THAT(f.store().ListNamespaces(2, 1), ElementsAre("first"));
  EXPECT_THAT(f.store().ListNamespaces(4, 10), ElementsAre());
}

TEST(PageStoreDiskTest, TheListSaysWhereAndHowLongUnused) {
  DiskFixture f({});
  Fill(f, 0, 40);
  f.clock().Advance(absl::Seconds(100));
  const auto rows = f.store().List(f.ns(), Name(0), "", 1);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].tier, TierId::kNvme);
  EXPECT_TRUE(rows[0].on_disk);
  EXPECT_EQ(rows[0].idle, absl::Seconds(139));
  const auto last = f.store().List(f.ns(), Name(39), "", 1);
  EXPECT_EQ(last[0].tier, TierId::kHost);
  EXPECT_FALSE(last[0].on_disk);
  EXPECT_EQ(last[0].idle, absl::Seconds(100));
}

TEST(PageStoreDiskTest, AGetDoesNotWaitForItsPromotion) {
  DiskFixture f({.promote_uses = 1});
  Fill(f, 0, 40);
  auto get = f.store().Acquire(f.ns(), f.Key(Name(0)), nullptr);
  ASSERT_TRUE(f.Load(*get)) << "with the promotion still queued: " << f.executor().pending();
  EXPECT_GT(f.executor().pending(), 0u);
  EXPECT_TRUE(get->Verify({}).ok());
  get.reset();
  f.Settle();
  EXPECT_EQ(f.Read(Name(0)), 0);
  EXPECT_EQ(f.last_tier(), TierId::kHost);
}

TEST(PageStoreDiskTest, RangesAreReadAlone) {
  DiskFixture f({});
  const page::ObjectLayout layout{4, 8192};
  ASSERT_TRUE((*f.Put("ranged-object", 0, {.bytes = 65536, .layout = layout}))->ok());
  Fill(f, 0, 40);
  const auto whole = f.Value("ranged-object/0", 65536);
  for (const page::ObjectRange range :
       {page::ObjectRange{page::Part::kV, 2, 1}, page::ObjectRange{page::Part::kKV, 1, 2},
        page::ObjectRange{page::Part::kK, 0, 0}}) {
    auto get = f.store().Acquire(f.ns(), f.Key("ranged-object"), nullptr);
    ASSERT_FALSE(get->loaded());
    std::optional<absl::Status> loaded;
    get->Load(range, absl::InfiniteFuture(), [&](absl::Status s) { loaded = std::move(s); });
    f.log().EndAll();
    ASSERT_TRUE(loaded.has_value() && loaded->ok());
    EXPECT_TRUE(get->Verify(range).ok());
    page::ForEachExtent(layout, range, [&](const page::Extent& extent) {
      EXPECT_TRUE(std::ranges::equal(get->Bytes(extent),
                                     std::span(whole).subspan(extent.offset, extent.bytes)));
    });
    get.reset();
    f.Settle();
  }
}

TEST(PageStoreDiskTest, PutWaitsForRoomThatIsOnItsWay) {
  DiskFixture f({});
  for (int i = 0; i < 16; ++i) f.Put(Name(i));
  ASSERT_GT(f.log().pending(), 0u);
  const auto refused = f.Put("one-more-0001");
  ASSERT_TRUE(absl::IsUnavailable(**refused)) << **refused;
  EXPECT_THAT((*refused)->ToString(), HasSubstr("on their way to disk"));
  bool woken = false;
  f.store().AwaitRoom(kSlot, f.clock().Now() + absl::Seconds(10), [&] { woken = true; });
  EXPECT_FALSE(woken);
  f.log().End(0);
  EXPECT_TRUE(woken);
  EXPECT_TRUE((*f.Put("one-more-0001"))->ok());
  EXPECT_EQ(f.store().Usage().eviction.evicted_objects, 0u);
}

TEST(PageStoreDiskTest, RoomGoesToWhoeverWaitsLongest) {
  DiskFixture f({});
  for (int i = 0; i < 16; ++i) f.Put(Name(i));
  ASSERT_EQ(f.log().pending(), 3u) << "from 16 slots to 13";
  std::string woken;
  const auto wait = [&](char name, uint64_t slots, int seconds) {
    f.store().AwaitRoom(slots * kSlot, f.clock().Now() + absl::Seconds(seconds),
                        [&woken, name] { woken += name; });
  };
  wait('b', 1, 11);
  wait('a', 3, 10);
  wait('c', 1, 12);
  f.log().End(0);
  EXPECT_EQ(woken, "a") << "one slot is none for three, and others do not pass";
  wait('a', 3, 10);
  wait('d', 1, 9);
  f.log().End(0);
  EXPECT_EQ(woken, "ad") << "of two slots one is left";
  f.log().End(0);
  EXPECT_EQ(woken, "adabc") << "nothing more is on its way: they have to be told";
}

TEST(PageStoreDiskTest, WaitingForRoomEndsAtItsDeadline) {
  DiskFixture f({});
  for (int i = 0; i < 16; ++i) f.Put(Name(i));
  int first = 0, second = 0;
  const absl::Time now = f.clock().Now();
  std::function<void()> wait = [&] {
    ++first;
    if (f.clock().Now() < now + absl::Seconds(10)) {
      f.store().AwaitRoom(kSlot, now + absl::Seconds(10), wait);
    }
  };
  wait();
  f.store().AwaitRoom(kSlot, now + absl::Seconds(20), [&] { ++second; });
  for (int i = 0; i < 19; ++i) {
    f.clock().Advance(absl::Seconds(1));
    f.store().Tick();
    EXPECT_EQ(first, std::min(1 + i + 1, 11)) << "it looks each time";
  }
  f.clock().Advance(absl::Seconds(1));
  f.store().Tick();
  EXPECT_GT(second, 0);
  EXPECT_EQ(first, 11) << "and no more after its deadline";
}

TEST(PageStoreDiskTest, SyncPutAnswersWhenTheDiskHas) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  const auto put = f.Put("key-1");
  EXPECT_FALSE(put->has_value());
  const auto again = f.Put("key-1");
  EXPECT_TRUE(absl::IsAlreadyExists(**again));
  std::optional<absl::Status> durable;
  f.store().AwaitDurable(f.ns(), f.Key("key-1"), [&](absl::Status s) { durable = std::move(s); });
  EXPECT_FALSE(durable.has_value()) << "exists, and is not safe yet";
  f.log().EndAll();
  ASSERT_TRUE(put->has_value() && (*put)->ok());
  ASSERT_TRUE(durable.has_value() && durable->ok());
  f.Crash();
  EXPECT_EQ(f.Read("key-1"), 0);
}

TEST(PageStoreDiskTest, AsyncPutAnswersAtOnceAndIsWrittenBehind) {
  DiskFixture f({.durability = Durability::kNvmeAsync});
  EXPECT_TRUE((*f.Put("key-1"))->ok());
  EXPECT_TRUE((*f.Put("key-2"))->ok());
  f.log().End(0);
  f.Crash();
  EXPECT_EQ(f.Read("key-1"), 0);
  EXPECT_EQ(f.Read("key-2"), std::nullopt) << "was on its way";
}

TEST(PageStoreDiskTest, WhatWasRemovedStaysSo) {
  DiskFixture f({.durability = Durability::kNvmeAsync});
  f.Put("key-1");
  f.Put("key-2");
  f.Settle();
  EXPECT_TRUE(f.store().Remove(f.ns(), f.Key("key-1"), false));
  f.Settle();
  EXPECT_TRUE((*f.Put("key-2", 1))->ToString().starts_with("ALREADY_EXISTS"));
  EXPECT_TRUE(f.store().Remove(f.ns(), f.Key("key-2"), false));
  f.Put("key-2", 1);
  f.Settle();
  f.Crash();
  EXPECT_EQ(f.Read("key-1"), std::nullopt);
  EXPECT_EQ(f.Read("key-2", 2), 1) << "not the value before";
}

TEST(PageStoreDiskTest, SyncRemovalIsSafeWhenItAnswers) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  f.Put("key-1");
  f.Settle();
  f.Put("key-2");
  std::optional<absl::Status> removed;
  std::vector<bool> there;
  const auto remove = [&] {
    removed.reset();
    // The second one while it is being written.
    const page::ObjectKey keys[] = {f.Key("key-1"), f.Key("key-2"), f.Key("key-3")};
    f.store().RemoveAll(f.ns(), keys, false, [&](absl::Status status, std::vector<bool> found) {
      removed = std::move(status);
      there = std::move(found);
    });
  };
  remove();
  EXPECT_FALSE(removed.has_value());
  while (!removed.has_value()) f.log().End(f.log().pending() - 1);
  EXPECT_TRUE(removed->ok());
  EXPECT_EQ(there, (std::vector<bool>{true, true, false}));
  f.Crash();
  EXPECT_EQ(f.Read("key-1"), std::nullopt);
  EXPECT_EQ(f.Read("key-2"), std::nullopt);
  remove();
  EXPECT_TRUE(removed.has_value()) << "nothing to wait for";
}

// Also for the erasure of what had gone by itself before.
TEST(PageStoreDiskTest, SyncRemovalWaitsForErasuresBeforeIt) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  f.Put("key-1");
  f.Settle();
  ASSERT_TRUE(f.store().EvictMatching("model", "key-1").ok());
  std::optional<absl::Status> removed;
  const page::ObjectKey key = f.Key("key-1");
  f.store().RemoveAll(f.ns(), std::span(&key, 1), false,
                      [&](absl::Status status, const std::vector<bool>&) { removed = status; });
  EXPECT_FALSE(removed.has_value());
  f.Settle();
  EXPECT_TRUE(removed.has_value() && removed->ok());
}

// Disk and memory full of what attached contexts hold: refused at once, and not again and again.
TEST(PageStoreDiskTest, RemovedWhileBeingWrittenLeavesNoRecord) {
  DiskFixture f({.durability = Durability::kNvmeAsync});
  f.Put("key-1");
  EXPECT_TRUE(f.store().Remove(f.ns(), f.Key("key-1"), false));
  f.Settle();
  EXPECT_TRUE(f.log().records().empty());
  EXPECT_EQ(f.host().Usage().slots, 0u);
  f.Crash();
  EXPECT_EQ(f.Read("key-1"), std::nullopt);
}

TEST(PageStoreDiskTest, HeldBlocksMoveButAreNotLost) {
  DiskFixture f({.disk_slots = 24});
  const std::string group = "held-block-";
  const std::vector<std::string> hashes = {group};
  f.store().Hold(f.ns(), hashes);
  for (int i = 0; i < 12; ++i) {
    ASSERT_TRUE((*f.Put(group + std::to_string(1000 + i)))->ok());
    f.Settle();
  }
  Fill(f, 0, 60);
  for (int i = 0; i < 12; ++i) EXPECT_EQ(f.Read(group + std::to_string(1000 + i)), 0) << i;
  EXPECT_EQ(f.Read(Name(0)), std::nullopt);
}

// As after a start with smaller settings.
TEST(PageStoreDiskTest, FlushWritesWhatMemoryAloneHas) {
  DiskFixture f({});
  for (int i = 0; i < 8; ++i) f.Put(Name(i));
  bool flushed = false;
  f.store().Flush([&](const absl::Status& status) { flushed = status.ok(); });
  EXPECT_FALSE(flushed);
  f.Settle();
  EXPECT_TRUE(flushed);
  f.Crash();
  for (int i = 0; i < 8; ++i) EXPECT_EQ(f.Read(Name(i)), 0);
  bool again = false;
  f.store().Flush([&](const absl::Status& status) { again = status.ok(); });
  EXPECT_TRUE(again) << "nothing to do";
}

TEST(PageStoreDiskTest, TheLaterOfTwoRecordsOfOneKeyCounts) {
  DiskFixture f({.durability = Durability::kNvmeAsync});
  f.Put("key-1", 0);
  f.Settle();
  tier::FakeRecordLog::Record old = f.log().records().begin()->second;
  f.store().Remove(f.ns(), f.Key("key-1"), false);
  f.Put("key-1", 1);
  f.Settle();
  // As if the removal had been lost.
  std::optional<absl::Status> done;
  f.log().records()[1] = std::move(old);
  EXPECT_EQ(f.Read("key-1", 2), 1);
}

TEST(PageStoreDiskTest, BadOptionsNameWhatIsAllowed) {
  auto host = *tier::HostTier::Create({.capacity_bytes = 1 << 20});
  tier::FakeRecordLog log(1 << 20);
  base::ManualExecutor executor;
  testing_support::ManualClock clock;
  PageStoreOptions options;
  options.disk = DiskOptions{.log = &log, .staging = host.get(), .executor = &executor};
  EXPECT_THAT(PageStore::Create(host.get(), options, &clock).status().ToString(),
              HasSubstr("staging memory of 1048576 bytes, allowed: at least 67117056"));
  options.max_object_bytes = 4096;
  options.disk->low_watermark = 0.99;
  EXPECT_THAT(PageStore::Create(host.get(), options, &clock).status().ToString(),
              HasSubstr("watermarks of the nvme tier are low 0.99"));
  options.disk->low_watermark = 0.5;
  options.disk->eviction = "fifo";
  EXPECT_THAT(PageStore::Create(host.get(), options, &clock).status().ToString(),
              HasSubstr("known: lru"));
}

// A store over a log with one record: an object's, but for what `change` does to its label.
absl::Status StartWith(const ObjectMeta& meta, absl::FunctionRef<void(std::string&)> change,
                       size_t* records_left) {
  GranuleChecksums checksums;
  checksums.granule_bytes = GranuleBytes(meta.layout);
  checksums.crc32c.resize(1);
  std::string label =
      EncodeObjectLabel("model", DiskFixture::Key("block-hash-1"), "", meta, checksums);
  change(label);
  const std::vector<std::byte> payload(meta.bytes);
  tier::FakeRecordLog log(1 << 20);
  log.Append({.label = label, .payload = payload}, [](absl::Status) {});
  log.EndAll();
  const auto host = *tier::HostTier::Create({.capacity_bytes = 1 << 20});
  const auto staging = *tier::HostTier::Create({.capacity_bytes = 1 << 20});
  base::ManualExecutor executor;
  testing_support::ManualClock clock;
  PageStoreOptions options;
  options.max_object_bytes = DiskFixture::kMaxObjectBytes;
  options.disk = DiskOptions{.log = &log, .staging = staging.get(), .executor = &executor};
  absl::StatusOr<std::unique_ptr<PageStore>> store = PageStore::Create(host.get(), options, &clock);
  executor.RunAll();
  log.EndAll();
  *records_left = log.records().size();
  return store.status();
}

TEST(PageStoreDiskTest, WhatANewerProgramWroteRefusesTheStartAndStays) {
  const struct {
    const char* codec;
    size_t at;
    char byte;
    const char* said;
  } kinds[] = {
      {"raw", 1, 2, "record 1: its label is of version 2; this program reads version 1"},
      {"zfp", 0, 'O', "record 1: its codec is 'zfp'; this program knows raw"},
      {"raw", 0, 'P', "record 1: its label begins with byte 80; this program knows objects"},
  };
  for (const auto& kind : kinds) {
    SCOPED_TRACE(kind.said);
    size_t left = 0;
    const absl::Status refused = StartWith(
        {.bytes = 100, .codec = kind.codec},
        [&](std::string& label) { label[kind.at] = kind.byte; }, &left);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(refused.message()), HasSubstr(kind.said));
    EXPECT_EQ(left, 1u);
  }
  // A note, too: its label has the version at the same place.
  size_t left = 0;
  const auto newer_note = [](std::string& label) {
    label = EncodeNoteLabel("a note", 0);
    label[1] = 2;
  };
  EXPECT_EQ(StartWith({.bytes = 100}, newer_note, &left).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(left, 1u);
  // What no program writes is of no use to any.
  const auto too_short = [](std::string& label) { label.pop_back(); };
  EXPECT_EQ(StartWith({.bytes = 100}, too_short, &left), absl::OkStatus());
  EXPECT_EQ(left, 0u);
}

}  // namespace
}  // namespace varve::store
