// The page store over a real log whose segments its values fill badly: what does not fit must
// leave, and puts go on.
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/faulty_io.h"
#include "kvstore/tier/host_tier.h"
#include "tests/support/assert_ok.h"
#include "tests/support/manual_clock.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::store {
namespace {

struct Setting {
  uint64_t segments;  // of 1 MiB
  uint64_t value_bytes;
  uint64_t other_bytes;  // of every other value
};

class PageStoreSegmentsTest : public tier::LogTest, public testing::WithParamInterface<Setting> {
 protected:
  void TearDown() override {
    store_.reset();
    LogTest::TearDown();
  }
  void OpenStore(uint64_t segments = GetParam().segments) {
    store_.reset();
    log_.reset();
    auto log = tier::OpenSegmentLog(Options(segments), io_.get(), &executor_);
    ASSERT_OK(log.status());
    log_ = *std::move(log);
    host_ = *tier::HostTier::Create({.capacity_bytes = 4 << 20});
    staging_ = *tier::HostTier::Create({.capacity_bytes = 4 << 20});
    PageStoreOptions options;
    options.max_object_bytes = 1 << 20;
    options.disk = DiskOptions{.log = log_.get(),
                               .staging = staging_.get(),
                               .executor = &executor_,
                               .durability = Durability::kNvmeSync};
    auto store = PageStore::Create(host_.get(), options, &base::SystemClock::Get());
    ASSERT_OK(store.status());
    store_ = *std::move(store);
    ns_ = *store_->InternNamespace("model");
  }
  static page::ObjectKey Key(int i) {
    return *page::ObjectKey::FromBytes(absl::StrCat("value", i));
  }
  static std::string Value(int i) {
    const Setting& setting = GetParam();
    return tier::PayloadOf(absl::StrCat(i), i % 2 == 0 ? setting.value_bytes : setting.other_bytes);
  }
  // As a client does: tries again when there may be room.
  absl::Status Put(int i) {
    const std::string value = Value(i);
    for (;;) {
      auto put = store_->Reserve(ns_, Key(i), {.bytes = value.size()});
      if (absl::IsUnavailable(put.status())) {
        tier::Outcome room;
        store_->AwaitRoom(value.size(), absl::Now() + absl::Seconds(30),
                          [done = room.Done()]() mutable { std::move(done)(absl::OkStatus()); });
        store_->Tick();
        (void)room.Await();
        continue;
      }
      if (!put.ok()) return put.status();
      std::memcpy((*put)->memory().data(), value.data(), value.size());
      tier::Outcome stored;
      (*put)->Commit(std::nullopt, stored.Done());
      return stored.Await();
    }
  }

  std::unique_ptr<tier::HostTier> host_, staging_;
  std::unique_ptr<PageStore> store_;
  NamespaceId ns_ = 0;
};

TEST_P(PageStoreSegmentsTest, PutsGoOnWhenTheDiskIsFull) {
  ASSERT_NO_FATAL_FAILURE(OpenStore());
  const uint64_t pair = GetParam().value_bytes + GetParam().other_bytes;
  // Three times what the directory could hold at best.
  const int values = static_cast<int>(2 * 3 * (GetParam().segments << 20) / pair);
  for (int i = 0; i < values; ++i) {
    const absl::Status stored = Put(i);
    ASSERT_TRUE(stored.ok()) << "value " << i << " of " << values << ": " << stored;
  }
  EXPECT_GT(store_->Usage().disk->eviction.evicted_objects, 0u);

  // After a restart the last ones are there, and there is room for more.
  ASSERT_NO_FATAL_FAILURE(OpenStore());
  Miss miss;
  auto get = store_->Acquire(ns_, Key(values - 1), &miss);
  ASSERT_NE(get, nullptr);
  tier::Outcome loaded;
  get->Load({}, absl::InfiniteFuture(), loaded.Done());
  ASSERT_OK(loaded.Await());
  const std::string value = Value(values - 1);
  ASSERT_EQ(get->memory().size(), value.size());
  EXPECT_EQ(std::memcmp(get->memory().data(), value.data(), value.size()), 0);
  for (int i = values; i < values + 8; ++i) ASSERT_OK(Put(i));

  get.reset();

  // With half the room what has none leaves at once, and puts go on.
  if (GetParam().segments < 8) return;
  ASSERT_NO_FATAL_FAILURE(OpenStore(GetParam().segments / 2));
  EXPECT_GT(store_->Usage().disk->eviction.evicted_objects, 0u);
  for (int i = values + 8; i < values + 16; ++i) ASSERT_OK(Put(i));
}

// Of large values one, two or three lie in a segment; and sizes that do not go together.
INSTANTIATE_TEST_SUITE_P(
    Fills, PageStoreSegmentsTest,
    testing::Values(Setting{4, 600 << 10, 600 << 10}, Setting{6, 600 << 10, 600 << 10},
                    Setting{16, 600 << 10, 600 << 10}, Setting{4, 340 << 10, 340 << 10},
                    Setting{8, 340 << 10, 340 << 10}, Setting{16, 340 << 10, 340 << 10},
                    Setting{8, 260 << 10, 260 << 10}, Setting{32, 260 << 10, 260 << 10},
                    Setting{8, 900 << 10, 200 << 10}, Setting{16, 700 << 10, 350 << 10},
                    Setting{16, 700 << 10, 5 << 10}, Setting{8, 50 << 10, 50 << 10}),
    [](const auto& info) {
      return absl::StrCat(info.param.segments, "segments_", info.param.value_bytes >> 10, "_",
                          info.param.other_bytes >> 10);
    });

class PageStoreNoSpaceTest : public PageStoreSegmentsTest {};

// The file system has less room than the directory may take, which the put finds out that comes
// when it is full: it too is stored.
TEST_P(PageStoreNoSpaceTest, ThePutThatFindsOutIsStored) {
  auto faulty = std::make_unique<tier::FaultyIo>(std::move(io_));
  tier::FaultyIo* const io = faulty.get();
  io_ = std::move(faulty);
  ASSERT_NO_FATAL_FAILURE(OpenStore());
  const int half = static_cast<int>((GetParam().segments << 20) / 2 / GetParam().value_bytes);
  for (int i = 0; i < half; ++i) ASSERT_OK(Put(i));
  ASSERT_EQ(store_->Usage().disk->eviction.evicted_objects, 0u);
  io->Add({.op = tier::IoOp::kWrite, .times = 1, .status = tier::InjectedNoSpace()});
  for (int i = half; i < 3 * half; ++i) ASSERT_OK(Put(i));
  EXPECT_EQ(io->struck(), 1u);
  EXPECT_EQ(store_->Usage().disk->write_errors, 0u);
  EXPECT_GT(store_->Usage().disk->eviction.evicted_objects, 0u);
  EXPECT_EQ(log_->Usage().directories[0].state, tier::DirectoryState::kFull);
}

INSTANTIATE_TEST_SUITE_P(Fills, PageStoreNoSpaceTest,
                         testing::Values(Setting{16, 50 << 10, 50 << 10},
                                         Setting{24, 300 << 10, 300 << 10}),
                         [](const auto& info) {
                           return absl::StrCat(info.param.segments, "segments_",
                                               info.param.value_bytes >> 10);
                         });

}  // namespace
}  // namespace varve::store
