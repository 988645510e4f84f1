// The page store over a disk that fails, is slow, or is full.
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/store/record_label.h"
#include "tests/unit/store/disk_fixture.h"

namespace varve::store {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(PageStoreFaultTest, ASlowReaderLeavesTheStagingToOthers) {
  DiskFixture f({.promote_uses = 0});
  Fill(f, 0, 40);
  std::vector<std::unique_ptr<GetHandle>> slow;
  // More than the staging holds.
  for (int i = 0; i < 40; ++i) {
    for (int reader = 0; reader < 8; ++reader) {
      auto get = f.store().Acquire(f.ns(), f.Key(Name(i)), nullptr);
      if (get->loaded()) continue;
      ASSERT_TRUE(f.Load(*get)) << slow.size() << " handles hold theirs";
      get->Unstage();
      EXPECT_TRUE(get->Verify({}).ok());
      EXPECT_TRUE(std::ranges::equal(get->memory(), f.Value(Name(i) + "/0")));
      slow.push_back(std::move(get));
    }
  }
  EXPECT_GT(slow.size(), 150u);
}

TEST(PageStoreFaultTest, SyncPutThatFailsIsNotStored) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  f.log().FailAppends(1, absl::DataLossError("EIO"));
  const auto put = f.Put("key-1");
  f.Settle();
  EXPECT_TRUE(absl::IsDataLoss(**put)) << **put;
  EXPECT_FALSE(f.store().Exists(f.ns(), f.Key("key-1")));
  EXPECT_EQ(f.host().Usage().slots, 0u);
  EXPECT_EQ(f.Disk().write_errors, 1u);
}

// The directory takes writes all the time: nothing else would begin it again.
TEST(PageStoreFaultTest, WhatCouldNotBeWrittenIsTriedAgain) {
  DiskFixture f({.durability = Durability::kNvmeAsync});
  f.log().FailAppends(3, absl::DataLossError("EIO"));
  const auto tick = [&f](absl::Duration later) {
    f.clock().Advance(later);
    f.store().Tick();
    f.Settle();
  };
  ASSERT_TRUE((*f.Put("key-1"))->ok());
  ASSERT_TRUE((*f.Put("key-2"))->ok());
  f.Settle();
  EXPECT_EQ(f.Disk().objects, 0u);
  EXPECT_EQ(f.Disk().write_errors, 2u);
  tick(absl::Seconds(1));
  EXPECT_EQ(f.Disk().write_errors, 3u);
  EXPECT_EQ(f.Disk().objects, 1u);
  tick(absl::Seconds(9));
  EXPECT_EQ(f.Disk().objects, 1u) << "tried again at once";
  tick(absl::Seconds(1));
  EXPECT_EQ(f.Disk().objects, 2u);
  f.Crash();
  for (const char* key : {"key-1", "key-2"}) EXPECT_EQ(f.Read(key), 0) << key;
}

TEST(PageStoreFaultTest, AFailedSyncPutIsGoneEvenWhileItIsRead) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  f.log().FailAppends(1, absl::DataLossError("EIO"));
  const auto failed = f.Put("key-1");
  const auto reader = f.store().Acquire(f.ns(), f.Key("key-1"), nullptr);
  ASSERT_NE(reader, nullptr);
  f.Settle();
  EXPECT_TRUE(absl::IsDataLoss(**failed));
  EXPECT_FALSE(f.store().Exists(f.ns(), f.Key("key-1"))) << "nobody was told that it is stored";
  EXPECT_TRUE(std::ranges::equal(reader->memory(), f.Value("key-1/0")));
}

TEST(PageStoreFaultTest, FlushSaysWhatWasNotWritten) {
  DiskFixture f({});
  for (int i = 0; i < 4; ++i) f.Put(Name(i));
  const auto flush = [&f] {
    std::optional<absl::Status> flushed;
    f.store().Flush([&flushed](const absl::Status& status) { flushed = status; });
    f.Settle();
    return flushed.value();
  };
  f.log().FailAppends(2, absl::DataLossError("EIO"));
  const absl::Status failed = flush();
  EXPECT_TRUE(absl::IsUnavailable(failed)) << failed;
  EXPECT_THAT(failed.message(), AllOf(HasSubstr("2 objects"), HasSubstr("EIO")));
  f.log().SetState(tier::DirectoryState::kReadOnly);
  f.store().Tick();
  const absl::Status unusable = flush();
  EXPECT_TRUE(absl::IsUnavailable(unusable)) << unusable;
  EXPECT_THAT(unusable.message(), HasSubstr("no directory"));
  f.log().SetState(tier::DirectoryState::kOk);
  f.store().Tick();
  EXPECT_TRUE(flush().ok()) << "later failures are another call's";
}

TEST(PageStoreFaultTest, PuttingOnceMoreLosesNothingWhenTheDiskFails) {
  for (const bool pinned : {false, true}) {
    SCOPED_TRACE(pinned);
    DiskFixture f({.durability = Durability::kNvmeSync, .disk_slots = 12});
    // The first are in host memory alone by now.
    for (int i = 0; i < 14; ++i) {
      const auto put = f.Put(Name(i));
      f.Settle();
      ASSERT_TRUE(put->has_value() && (*put)->ok()) << i;
    }
    ASSERT_LT(f.Disk().objects, 14u);
    ASSERT_EQ(f.store().Usage().host_objects, 14u);
    constexpr uint64_t kOwner = 7;
    if (pinned) {
      ASSERT_TRUE(f.store().Pin(f.ns(), f.Key(Name(0)), kOwner, absl::InfiniteDuration()));
    }
    f.log().SetState(tier::DirectoryState::kReadOnly);
    f.store().Tick();
    f.log().FailAppends(1, absl::ResourceExhaustedError("no directory takes writes"));
    EXPECT_TRUE(absl::IsAlreadyExists(**f.Put(Name(0))));
    std::optional<absl::Status> durable;
    f.store().AwaitDurable(f.ns(), f.Key(Name(0)), [&](absl::Status s) { durable = std::move(s); });
    f.Settle();
    ASSERT_TRUE(durable.has_value());
    EXPECT_TRUE(absl::IsResourceExhausted(*durable)) << *durable;
    EXPECT_EQ(f.Read(Name(0)), 0) << "it was stored, and could be read";
    EXPECT_EQ(f.last_tier(), TierId::kHost);
    // When the disk is back it gets there.
    f.log().SetState(tier::DirectoryState::kOk);
    f.store().Tick();
    durable.reset();
    f.store().AwaitDurable(f.ns(), f.Key(Name(0)), [&](absl::Status s) { durable = std::move(s); });
    f.Settle();
    EXPECT_TRUE(durable.has_value() && durable->ok());
  }
}

// One put by two clients that the disk refuses is stored for neither.
TEST(PageStoreFaultTest, PuttingOnceMoreWhileThePutWaitsFailsWithIt) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  f.log().FailAppends(1, absl::DataLossError("EIO"));
  const auto first = f.Put("key-1");
  EXPECT_TRUE(absl::IsAlreadyExists(**f.Put("key-1")));
  std::optional<absl::Status> durable;
  f.store().AwaitDurable(f.ns(), f.Key("key-1"), [&](absl::Status s) { durable = std::move(s); });
  f.Settle();
  EXPECT_TRUE(absl::IsDataLoss(**first));
  ASSERT_TRUE(durable.has_value());
  EXPECT_TRUE(absl::IsDataLoss(*durable));
  EXPECT_FALSE(f.store().Exists(f.ns(), f.Key("key-1")));
}

TEST(PageStoreFaultTest, APutDoesNotWaitForADiskThatHangs) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  const auto put = f.Put("key-1");
  f.clock().Advance(absl::Seconds(8));
  std::optional<absl::Status> durable;
  f.store().AwaitDurable(f.ns(), f.Key("key-1"), [&](absl::Status s) { durable = std::move(s); });
  f.store().Tick();
  EXPECT_FALSE(put->has_value());
  f.clock().Advance(absl::Seconds(3));
  f.store().Tick();
  ASSERT_TRUE(put->has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded(**put)) << **put;
  EXPECT_FALSE(durable.has_value()) << "came later";
  f.Settle();
  EXPECT_TRUE(durable.has_value() && durable->ok());
  EXPECT_EQ(f.Read("key-1"), 0);
  // Whoever got no answer was told nothing, so what then fails is not stored.
  f.log().FailAppends(1, absl::DataLossError("EIO"));
  const auto failed = f.Put("key-2");
  f.clock().Advance(absl::Seconds(11));
  f.store().Tick();
  EXPECT_TRUE(absl::IsDeadlineExceeded(**failed));
  f.Settle();
  EXPECT_FALSE(f.store().Exists(f.ns(), f.Key("key-2")));
}

TEST(PageStoreFaultTest, ARemovalDoesNotWaitForADiskThatHangs) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  const std::vector<page::ObjectKey> keys = {f.Key("key-1"), f.Key("key-2")};
  const auto put = f.Put("key-1");
  f.Settle();
  std::optional<absl::Status> removed;
  std::vector<bool> which;
  f.store().RemoveAll(f.ns(), keys, false, [&](absl::Status status, std::vector<bool> found) {
    removed = std::move(status);
    which = std::move(found);
  });
  f.clock().Advance(absl::Seconds(8));
  f.store().Tick();
  EXPECT_FALSE(removed.has_value());
  // Another one waits for the same erasure, from later on.
  std::optional<absl::Status> again;
  f.store().RemoveAll(f.ns(), keys, false,
                      [&](absl::Status status, const auto&) { again = std::move(status); });
  f.clock().Advance(absl::Seconds(3));
  f.store().Tick();
  ASSERT_TRUE(removed.has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded(*removed)) << *removed;
  EXPECT_EQ(which, (std::vector<bool>{true, false}));
  EXPECT_FALSE(again.has_value());
  EXPECT_FALSE(f.store().Exists(f.ns(), f.Key("key-1")));
  f.Settle();
  ASSERT_TRUE(again.has_value());
  EXPECT_TRUE(again->ok()) << *again;
}

// The put that finds out waits for room as those after it do.
TEST(PageStoreFaultTest, ADiskThatTurnsOutToBeFullMakesRoom) {
  for (const bool sync : {true, false}) {
    DiskFixture f({.durability = sync ? Durability::kNvmeSync : Durability::kNvmeAsync});
    for (int i = 0; i < 40; ++i) {
      f.clock().Advance(absl::Seconds(1));
      const auto put = f.Put(Name(i));
      f.Settle();
      ASSERT_TRUE((**put).ok()) << **put;
    }
    f.log().HasRoomFor(20 * DiskFixture::kSlot);
    // Two at a time: the first one makes the room of both.
    const auto put = f.Put(Name(100)), other = f.Put(Name(101));
    f.Settle();
    ASSERT_TRUE(put->has_value() && other->has_value());
    EXPECT_TRUE((**put).ok()) << **put;
    EXPECT_TRUE((**other).ok()) << **other;
    EXPECT_EQ(f.store().Usage().disk->write_errors, 0u);
    EXPECT_TRUE(f.store().Exists(f.ns(), f.Key(Name(39))));
    f.Crash();
    EXPECT_EQ(f.Read(Name(100)), 0);
    EXPECT_EQ(f.Read(Name(101)), 0);
    EXPECT_FALSE(f.store().Exists(f.ns(), f.Key(Name(0))));
  }
}

// Where nothing may be evicted, there is an answer.
TEST(PageStoreFaultTest, AFullDiskOfHeldBlocksIsARefusalAndNoLoop) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  const std::string group = "held-block-";
  f.store().Hold(f.ns(), std::vector<std::string>{group});
  for (int i = 0; i < 10; ++i) {
    const auto put = f.Put(group + std::to_string(1000 + i));
    f.Settle();
    ASSERT_TRUE((**put).ok()) << **put;
  }
  f.log().HasRoomFor(5 * DiskFixture::kSlot);
  const auto put = f.Put(Name(1));
  f.Settle();
  ASSERT_TRUE(put->has_value());
  EXPECT_TRUE(absl::IsResourceExhausted(**put)) << **put;
  EXPECT_FALSE(f.store().Exists(f.ns(), f.Key(Name(1))));
}

TEST(PageStoreFaultTest, NobodyWaitsForTheDiskWhenTheStoreEnds) {
  DiskFixture f({.durability = Durability::kNvmeSync});
  const auto put = f.Put("key-1");
  EXPECT_FALSE(put->has_value());
  f.store().StopWaiting();
  ASSERT_TRUE(put->has_value());
  EXPECT_TRUE(absl::IsUnavailable(**put));
  const auto late = f.Put("key-2");
  ASSERT_TRUE(late->has_value());
  EXPECT_TRUE(absl::IsUnavailable(**late)) << "it is not on disk: " << **late;
  f.Settle();
}

TEST(PageStoreFaultTest, FullOfHeldBlocksIsARefusalAndNoLoop) {
  DiskFixture f({.disk_slots = 8});
  const std::string group = "held-block-";
  const std::vector<std::string> hashes = {group};
  f.store().Hold(f.ns(), hashes);
  int stored = 0, rounds = 0;
  for (int i = 0; i < 60 && rounds < 100; ++i) {
    auto put = f.Put(group + std::to_string(1000 + i));
    for (; (*put)->code() == absl::StatusCode::kUnavailable && rounds < 100; ++rounds) {
      f.Settle();
      put = f.Put(group + std::to_string(1000 + i));
    }
    if (!(*put)->ok()) {
      EXPECT_TRUE(absl::IsResourceExhausted(**put)) << **put;
      break;
    }
    ++stored;
  }
  EXPECT_LT(rounds, 100);
  EXPECT_GT(stored, 16);
  for (int i = 0; i < stored; ++i) EXPECT_EQ(f.Read(group + std::to_string(1000 + i)), 0) << i;
  EXPECT_EQ(f.store().Usage().eviction.evicted_objects, 0u);
}

TEST(PageStoreFaultTest, WithoutItsDiskTheStoreEvictsAndHeldBlocksStay) {
  DiskFixture f({});
  const std::string group = "held-block-";
  const std::vector<std::string> hashes = {group};
  f.store().Hold(f.ns(), hashes);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE((*f.Put(group + std::to_string(1000 + i)))->ok());
  f.log().SetState(tier::DirectoryState::kFailed);
  f.store().Tick();
  Fill(f, 0, 40);
  EXPECT_GT(f.store().Usage().eviction.evicted_objects, 0u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(f.Read(group + std::to_string(1000 + i)), 0) << i;
  // And back.
  f.log().SetState(tier::DirectoryState::kOk);
  f.store().Tick();
  const uint64_t lost = f.store().Usage().eviction.evicted_objects;
  Fill(f, 40, 80);
  EXPECT_EQ(f.store().Usage().eviction.evicted_objects, lost);
}

TEST(PageStoreFaultTest, AReadErrorIsAMissAndTheObjectGoes) {
  DiskFixture f({});
  Fill(f, 0, 40);
  f.log().FailReads(1, absl::DataLossError("EIO"));
  EXPECT_EQ(f.Read(Name(0)), std::nullopt);
  EXPECT_TRUE(absl::IsDataLoss(f.load_status()));
  EXPECT_FALSE(f.store().Exists(f.ns(), f.Key(Name(0))));
  EXPECT_EQ(f.Disk().read_errors, 1u);
  f.log().FailReads(1, absl::InternalError("EAGAIN or so"));
  EXPECT_EQ(f.Read(Name(1)), std::nullopt);
  f.Settle();
  EXPECT_EQ(f.Read(Name(1)), 0) << "it may work the next time";
}

TEST(PageStoreFaultTest, ChangedBytesOnDiskAreNeverServed) {
  DiskFixture f({});
  Fill(f, 0, 40);
  for (auto& [id, record] : f.log().records()) record.payload[5000] ^= std::byte{4};
  int wrong = 0;
  for (int i = 0; i < 40; ++i) {
    const std::optional<int> version = f.Read(Name(i));
    if (version == -1) ++wrong;
    f.Settle();
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(f.Disk().checksum_failures, 20u);
  EXPECT_EQ(f.Read(Name(0)), std::nullopt);
  EXPECT_EQ(f.last_miss(), MissReason::kCorrupt);
}

TEST(PageStoreFaultTest, APromotionOfChangedBytesDropsThem) {
  DiskFixture f({});
  Fill(f, 0, 40);
  for (auto& [id, record] : f.log().records()) record.payload[1] ^= std::byte{4};
  const page::ObjectKey keys[] = {f.Key(Name(0))};
  f.store().Prefetch(f.ns(), keys);
  f.Settle();
  EXPECT_FALSE(f.store().Exists(f.ns(), keys[0]));
  EXPECT_EQ(f.Disk().checksum_failures, 1u);
}

// Of two copies the damaged one leaves, when nobody has it any more.
TEST(PageStoreFaultTest, ABitFlippedInMemoryLeavesTheRecord) {
  DiskFixture f({.durability = Durability::kNvmeAsync, .promote_uses = 0});
  f.Put(Name(0));
  f.Settle();
  ASSERT_EQ(f.Disk().objects, 1u);
  auto first = f.store().Acquire(f.ns(), f.Key(Name(0)), nullptr);
  auto second = f.store().Acquire(f.ns(), f.Key(Name(0)), nullptr);
  ASSERT_EQ(first->tier(), TierId::kHost);
  const_cast<std::byte&>(first->memory()[5000]) ^= std::byte{4};
  EXPECT_TRUE(absl::IsDataLoss(first->Verify({})));
  EXPECT_TRUE(absl::IsDataLoss(second->Verify({})));
  EXPECT_EQ(f.store().Usage().checksum_failures, 1u);
  EXPECT_EQ(f.Read(Name(0)), 0) << "while others have the damaged copy";
  EXPECT_EQ(f.last_tier(), TierId::kNvme);
  first.reset();
  EXPECT_EQ(f.host().Usage().slots, 1u);
  second.reset();
  EXPECT_EQ(f.host().Usage().slots, 0u);
  EXPECT_EQ(f.Read(Name(0)), 0);
  EXPECT_EQ(f.last_tier(), TierId::kNvme);
  const page::ObjectKey keys[] = {f.Key(Name(0))};
  f.store().Prefetch(f.ns(), keys);
  f.Settle();
  EXPECT_EQ(f.Read(Name(0)), 0);
  EXPECT_EQ(f.last_tier(), TierId::kHost);
}

TEST(PageStoreFaultTest, ABitFlippedInMemoryAloneIsTheEndOfTheObject) {
  DiskFixture f({});
  f.Put(Name(0));
  auto get = f.store().Acquire(f.ns(), f.Key(Name(0)), nullptr);
  const_cast<std::byte&>(get->memory()[5000]) ^= std::byte{4};
  EXPECT_TRUE(absl::IsDataLoss(get->Verify({})));
  EXPECT_EQ(f.Read(Name(0)), std::nullopt);
  EXPECT_EQ(f.last_miss(), MissReason::kCorrupt);
}

// A handle that reads from disk what has come into memory meanwhile.
TEST(PageStoreFaultTest, ARecordThatCannotBeReadLeavesTheCopyInMemory) {
  for (const bool flipped : {true, false}) {
    SCOPED_TRACE(flipped);
    DiskFixture f({.promote_uses = 0});
    Fill(f, 0, 40);
    auto get = f.store().Acquire(f.ns(), f.Key(Name(0)), nullptr);
    ASSERT_EQ(get->tier(), TierId::kNvme);
    const page::ObjectKey keys[] = {f.Key(Name(0))};
    f.store().Prefetch(f.ns(), keys);
    f.Settle();
    const uint64_t on_disk = f.Disk().objects;
    if (flipped) {
      for (auto& [id, record] : f.log().records()) record.payload[5000] ^= std::byte{4};
      ASSERT_TRUE(f.Load(*get));
      EXPECT_TRUE(absl::IsDataLoss(get->Verify({})));
      EXPECT_EQ(f.Disk().checksum_failures, 1u);
    } else {
      f.log().FailReads(1, absl::DataLossError("EIO"));
      EXPECT_FALSE(f.Load(*get));
    }
    get.reset();
    f.Settle();
    EXPECT_EQ(f.Disk().objects, on_disk - 1);
    EXPECT_EQ(f.Read(Name(0)), 0);
    EXPECT_EQ(f.last_tier(), TierId::kHost);
  }
}

TEST(PageStoreFaultTest, ASlowDiskAnswersAtTheDeadlineAndTheBytesComeToNobody) {
  DiskFixture f({});
  Fill(f, 0, 40);
  auto get = f.store().Acquire(f.ns(), f.Key(Name(0)), nullptr);
  std::optional<absl::Status> loaded;
  get->Load({}, f.clock().Now() + absl::Seconds(2),
            [&](absl::Status status) { loaded = std::move(status); });
  f.clock().Advance(absl::Seconds(3));
  f.store().Tick();
  ASSERT_TRUE(loaded.has_value());
  EXPECT_TRUE(absl::IsDeadlineExceeded(*loaded)) << *loaded;
  get.reset();
  EXPECT_TRUE(f.store().Remove(f.ns(), f.Key(Name(0)), false));
  f.Settle();
}

// It would be there, and could never be read.
TEST(PageStoreFaultTest, AStartWithAStagingThatIsTooSmallIsRefused) {
  const std::vector<std::byte> value(2 << 20);
  GranuleChecksums checksums;
  checksums.crc32c.resize(value.size() / kOpaqueGranuleBytes);
  tier::FakeRecordLog log(16 << 20);
  log.Append({EncodeObjectLabel("model", DiskFixture::Key("large"), "", {.bytes = value.size()},
                                checksums),
              value},
             [](const absl::Status&) {});
  log.EndAll();
  base::ManualExecutor executor;
  testing_support::ManualClock clock;
  const auto host = tier::HostTier::Create({.capacity_bytes = 1 << 20});
  const auto create = [&](uint64_t staging_bytes) {
    const auto staging = tier::HostTier::Create({.capacity_bytes = staging_bytes});
    PageStoreOptions options;
    options.max_object_bytes = 64 << 10;
    options.disk = DiskOptions{.log = &log, .staging = staging->get(), .executor = &executor};
    return PageStore::Create(host->get(), options, &clock).status();
  };
  const absl::Status refused = create(1 << 20);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("2097152"), HasSubstr("1048576"),
                                       HasSubstr("nvme_tier.staging_bytes")));
  EXPECT_TRUE(create(4 << 20).ok());
}

}  // namespace
}  // namespace varve::store
