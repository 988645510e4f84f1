// Host memory that is made smaller and larger under the objects in it.
#include <time.h>

#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/store/disk_fixture.h"

namespace varve::store {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSlot = DiskFixture::kSlot;
constexpr uint64_t kMost = DiskFixture::kMaxObjectBytes / kSlot;  // of one object

DiskFixture::Answer Resize(DiskFixture& f, uint64_t slots) {
  auto answer = std::make_shared<std::optional<absl::Status>>();
  f.store().ResizeHost(slots * kSlot,
                       [answer](absl::Status status) { *answer = std::move(status); });
  return answer;
}
bool Done(const DiskFixture::Answer& answer) { return answer->has_value(); }

TEST(PageStoreResizeTest, WhatStillFitsMovesAndStays) {
  DiskFixture f({.disk_slots = 0});
  Fill(f, 0, 15);  // of 16, the first ones below
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(f.store().Remove(f.ns(), f.Key(Name(i)), false));
  const auto answer = Resize(f, 10);
  ASSERT_TRUE(Done(answer)) << "nobody holds anything";
  EXPECT_TRUE((*answer)->ok()) << **answer;
  for (int i = 8; i < 15; ++i) EXPECT_EQ(f.Read(Name(i)), 0) << i;
  EXPECT_EQ(f.store().Usage().eviction.evicted_objects, 0u);
  EXPECT_EQ(f.host().capacity_bytes(), 10 * kSlot);
  EXPECT_EQ(f.host().Usage().beyond_bytes, 0u);
}

TEST(PageStoreResizeTest, WhatDoesNotFitIsEvictedByThePolicyWithoutADisk) {
  DiskFixture f({.disk_slots = 0});
  Fill(f, 0, 15);
  EXPECT_EQ(f.Read(Name(0)), 0) << "used again";
  ASSERT_TRUE(Done(Resize(f, 10)));
  // Down to the low watermark of the new size.
  EXPECT_EQ(f.store().Usage().eviction.evicted_objects, 7u);
  EXPECT_EQ(f.Read(Name(0)), 0);
  EXPECT_EQ(f.Read(Name(1)), std::nullopt);
  EXPECT_EQ(f.last_miss(), MissReason::kEvicted);
  for (int i = 8; i < 15; ++i) EXPECT_EQ(f.Read(Name(i)), 0) << i;
}

TEST(PageStoreResizeTest, WhatDoesNotFitGoesToTheDisk) {
  DiskFixture f({});
  Fill(f, 0, 15);
  const auto answer = Resize(f, 9);
  EXPECT_FALSE(Done(answer)) << "on their way to disk";
  EXPECT_GT(f.host().Usage().beyond_bytes, 0u);
  for (int turn = 0; turn < 5 && !Done(answer); ++turn) {
    f.Settle();
    f.store().Tick();
  }
  ASSERT_TRUE(Done(answer));
  EXPECT_TRUE((*answer)->ok()) << **answer;
  for (int i = 0; i < 15; ++i) EXPECT_EQ(f.Read(Name(i)), 0) << i;
  EXPECT_LE(f.host().Usage().used_bytes, 9 * kSlot);
}

TEST(PageStoreResizeTest, ReadersKeepTheirBytesAndTheSizeWaitsForThem) {
  DiskFixture f({.disk_slots = 0});
  Fill(f, 0, 12);
  auto reader = f.store().Acquire(f.ns(), f.Key(Name(11)), nullptr);
  auto put = f.store().Reserve(f.ns(), f.Key("late"), {.bytes = kSlot});
  ASSERT_TRUE(reader != nullptr && put.ok());
  const auto answer = Resize(f, 9);
  EXPECT_FALSE(Done(answer));
  EXPECT_EQ(f.host().Usage().beyond_bytes, 2 * kSlot);
  const auto value = f.Value(f.VersionName(Name(11), 0));
  EXPECT_TRUE(std::ranges::equal(reader->memory(), value));
  reader.reset();
  f.store().Tick();
  EXPECT_FALSE(Done(answer));
  EXPECT_EQ(f.host().Usage().beyond_bytes, kSlot) << "the put's";
  const auto late = f.Value("late/0");
  std::memcpy((*put)->memory().data(), late.data(), late.size());
  (*put)->Commit(std::nullopt, [](absl::Status status) { EXPECT_TRUE(status.ok()) << status; });
  put->reset();
  f.store().Tick();
  ASSERT_TRUE(Done(answer));
  EXPECT_EQ(f.Read("late"), 0);
  EXPECT_EQ(f.Read(Name(11)), 0);
}

double ThreadSeconds() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return absl::ToDoubleSeconds(absl::DurationFromTimespec(used));
}

// A reader that takes its time: what it reads is looked at again, and not all that there is.
TEST(PageStoreResizeTest, WaitingForAReaderCostsNoLookAtEveryObject) {
  constexpr uint64_t kMiB = 1 << 20;
  constexpr int kObjects = 100000;
  const auto host = *tier::HostTier::Create(
      {.capacity_bytes = 24 * kMiB, .max_capacity_bytes = 24 * kMiB, .slot_alignment_bytes = 64});
  testing_support::ManualClock clock;
  const auto store = *PageStore::Create(host.get(), {.max_object_bytes = 8 * kMiB}, &clock);
  const NamespaceId ns = *store->InternNamespace("model");
  const auto put = [&](const std::string& name, uint64_t bytes) {
    auto reserved = store->Reserve(ns, *page::ObjectKey::FromBytes(name), {.bytes = bytes});
    ASSERT_TRUE(reserved.ok()) << reserved.status();
    (*reserved)->Commit(std::nullopt, [](const absl::Status&) {});
  };
  for (int i = 0; i < kObjects; ++i) put(Name(i), 64);
  put("between", 8 * kMiB);
  put("last", 64);
  const page::ObjectKey last = *page::ObjectKey::FromBytes("last");
  auto reader = store->Acquire(ns, last, nullptr);
  ASSERT_TRUE(store->Remove(ns, *page::ObjectKey::FromBytes("between"), false));
  bool done = false;
  store->ResizeHost(10 * kMiB, [&](const absl::Status& status) { done = status.ok(); });
  ASSERT_FALSE(done);

  const double begin = ThreadSeconds();
  ASSERT_EQ(store->List(ns, "", "", 2 * kObjects).size(), kObjects + 1u);
  const double listed = ThreadSeconds();
  for (int i = 0; i < 100; ++i) store->Tick();
  const double ticked = ThreadSeconds();
  EXPECT_LT(ticked - listed, listed - begin) << "100 looks cost more than one list";
  EXPECT_FALSE(done);
  reader.reset();
  store->Tick();
  EXPECT_TRUE(done);
  EXPECT_TRUE(store->Exists(ns, last));
}

// Promotions that have their room, and are not there yet, when memory is made smaller.
TEST(PageStoreResizeTest, WhatComesFromDiskMeanwhileMovesToo) {
  DiskFixture f({});
  Fill(f, 0, 15);
  bool flushed = false;
  f.store().Flush([&](const absl::Status& status) { flushed = status.ok(); });
  f.Settle();
  ASSERT_TRUE(flushed);
  ASSERT_TRUE(Done(Resize(f, 8)));
  ASSERT_TRUE(Done(Resize(f, 16)));
  std::vector<page::ObjectKey> keys;
  for (int i = 0; i < 6; ++i) keys.push_back(f.Key(Name(i)));
  f.store().Prefetch(f.ns(), keys);
  f.executor().RunAll();
  ASSERT_GT(f.log().pending(), 0u);
  const auto answer = Resize(f, 8);
  EXPECT_FALSE(Done(answer));
  f.Settle();
  for (int turn = 0; turn < 5 && !Done(answer); ++turn) {
    f.store().Tick();
    f.Settle();
  }
  ASSERT_TRUE(Done(answer));
  for (int i = 0; i < 15; ++i) EXPECT_EQ(f.Read(Name(i)), 0) << i;
}

TEST(PageStoreResizeTest, PinnedObjectsMoveAtTheCostOfOthers) {
  DiskFixture f({.disk_slots = 0});
  Fill(f, 0, 15);
  for (int i = 10; i < 15; ++i) {
    ASSERT_TRUE(f.store().Pin(f.ns(), f.Key(Name(i)), 1, absl::InfiniteDuration()));
  }
  ASSERT_TRUE(Done(Resize(f, 8)));
  for (int i = 10; i < 15; ++i) EXPECT_EQ(f.Read(Name(i)), 0) << i;
}

// Blocks that follow each other: what the pinned ones follow leaves for their room.
TEST(PageStoreResizeTest, PinsAmidAChainMoveAtTheCostOfTheOthers) {
  DiskFixture f({.disk_slots = 0});
  const auto name = [](int block) { return "block-" + std::to_string(1000 + block) + "-lay"; };
  for (int block = 0; block < 15; ++block) {
    const std::string parent(BlockOf(f.Key(name(block > 0 ? block - 1 : 0))));
    const auto put = f.Put(name(block), 0, {.bytes = kSlot}, block > 0 ? parent : "");
    ASSERT_TRUE(put->has_value() && (*put)->ok()) << **put;
  }
  for (int block = 1; block < 15; block += 2) {
    ASSERT_TRUE(f.store().Pin(f.ns(), f.Key(name(block)), 1, absl::InfiniteDuration()));
  }
  const auto answer = Resize(f, 8);
  for (int turn = 0; turn < 5 && !Done(answer); ++turn) f.store().Tick();
  ASSERT_TRUE(Done(answer));
  EXPECT_TRUE((*answer)->ok()) << **answer;
  for (int block = 1; block < 15; block += 2) EXPECT_EQ(f.Read(name(block)), 0) << block;
}

TEST(PageStoreResizeTest, GrowsAndTakesMore) {
  DiskFixture f({.disk_slots = 0});
  Fill(f, 0, 15);
  ASSERT_TRUE(Done(Resize(f, 32)));
  Fill(f, 15, 30);
  for (int i = 0; i < 30; ++i) EXPECT_EQ(f.Read(Name(i)), 0) << i;
  EXPECT_EQ(f.store().Usage().eviction.evicted_objects, 0u);
}

TEST(PageStoreResizeTest, TheLastCallCounts) {
  DiskFixture f({.disk_slots = 0});
  Fill(f, 0, 15);
  auto reader = f.store().Acquire(f.ns(), f.Key(Name(14)), nullptr);
  const auto first = Resize(f, 9);
  EXPECT_FALSE(Done(first));
  const auto second = Resize(f, 16);
  ASSERT_TRUE(Done(first) && Done(second));
  EXPECT_EQ((*first)->code(), absl::StatusCode::kAborted);
  EXPECT_TRUE((*second)->ok());
  const auto third = Resize(f, 9);
  EXPECT_FALSE(Done(third));
  f.store().StopWaiting();
  ASSERT_TRUE(Done(third));
  EXPECT_EQ((*third)->code(), absl::StatusCode::kUnavailable);
  const auto fourth = Resize(f, 16);
  ASSERT_TRUE(Done(fourth));
  EXPECT_EQ((*fourth)->code(), absl::StatusCode::kUnavailable);
}

TEST(PageStoreResizeTest, RefusesWhatCannotBe) {
  DiskFixture f({.disk_slots = 0});
  Fill(f, 0, 15);
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(f.store().Pin(f.ns(), f.Key(Name(i)), 1, absl::InfiniteDuration()));
  }
  struct Case {
    uint64_t slots;
    const char* text;
  };
  for (const Case& c : {Case{kMost - 1, "the largest object"},
                        Case{DiskFixture::kMaxHostSlots + 1, "allowed: from"},
                        Case{9, "80.0 KiB of it that are pinned"}}) {
    const auto answer = Resize(f, c.slots);
    ASSERT_TRUE(Done(answer)) << c.slots;
    EXPECT_THAT((*answer)->ToString(), HasSubstr(c.text));
  }
  EXPECT_EQ(f.host().capacity_bytes(), DiskFixture::kHostSlots * kSlot);
  EXPECT_EQ(f.store().Usage().objects, 15u);
}

// Puts and gets of several sizes while the size changes all the time, by several threads.
TEST(PageStoreResizeTest, NothingIsLostOrMixedUpMeanwhile) {
  DiskFixture f({.disk_slots = 0});
  constexpr uint32_t kSeed = 20261122;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::atomic<bool> over{false};
  std::atomic<uint64_t> hits{0};
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 3; ++t) {
    threads.emplace_back([&f, &over, &hits, t] {
      std::mt19937_64 random(kSeed + t);
      while (!over) {
        const std::string name = Name(static_cast<int>(random() % 40));
        const size_t bytes = 1 + std::hash<std::string>()(name) % (3 * kSlot);
        const auto value = DiskFixture::Value(name, bytes);
        if (auto get = f.store().Acquire(f.ns(), f.Key(name), nullptr)) {
          std::this_thread::yield();
          ASSERT_TRUE(std::ranges::equal(get->memory(), value));
          ++hits;
          continue;
        }
        auto put = f.store().Reserve(f.ns(), f.Key(name), {.bytes = bytes});
        if (!put.ok()) continue;
        std::memcpy((*put)->memory().data(), value.data(), value.size());
        (*put)->Commit(std::nullopt, [](const absl::Status&) {});
      }
    });
  }
  std::mt19937_64 random(kSeed);
  int finished = 0;
  for (int i = 0; i < 3000; ++i) {
    f.store().ResizeHost((kMost + random() % (DiskFixture::kMaxHostSlots - kMost)) * kSlot,
                         [&finished](absl::Status status) { finished += status.ok(); });
    f.store().Tick();
  }
  over = true;
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(hits.load(), 100u);
  EXPECT_GT(finished, 100);
  f.store().Tick();
  EXPECT_EQ(f.host().Usage().beyond_bytes, 0u);
  f.store().StopWaiting();
}

}  // namespace
}  // namespace varve::store
