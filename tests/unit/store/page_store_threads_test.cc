// Many writers, readers, removers and pinners at once: what is read is always whole, and nothing
// leaks.
#include <atomic>
#include <cstring>
#include <latch>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/host_tier.h"
#include "tests/support/commit_now.h"

namespace varve::store {
namespace {

constexpr int kThreads = 8;
constexpr int kSteps = 800;

page::ObjectKey KeyOf(uint64_t n) {
  return *page::MakeObjectKey("block-hash-" + std::to_string(n / 4), static_cast<uint32_t>(n % 4));
}

// The value says whose it is in every byte.
void FillValue(uint64_t n, std::span<std::byte> memory) {
  std::memset(memory.data(), static_cast<int>(n * 37 % 251), memory.size());
}
bool ValueIsWhole(uint64_t n, std::span<const std::byte> memory) {
  for (std::byte b : memory) {
    if (b != static_cast<std::byte>(n * 37 % 251)) return false;
  }
  return true;
}

TEST(PageStoreThreadsTest, ReadersSeeWholeValuesAndNothingLeaks) {
  auto tier = tier::HostTier::Create({.capacity_bytes = 1 << 20});
  ASSERT_TRUE(tier.ok());
  std::atomic<uint64_t> evicted{0};
  auto created =
      PageStore::Create(tier->get(), {.on_evicted = [&](TierId, uint64_t, double) { ++evicted; }},
                        &base::SystemClock::Get());
  ASSERT_TRUE(created.ok());
  PageStore& store = **created;
  const NamespaceId ns = *store.InternNamespace("n");
  std::atomic<uint64_t> hits{0};

  const auto work = [&](uint64_t thread) {
    std::mt19937_64 random(thread);
    for (int step = 0; step < kSteps; ++step) {
      const uint64_t n = random() % 400;
      const std::vector<std::string> block = {"block-hash-" + std::to_string(n / 4)};
      switch (random() % 8) {
        case 0:
        case 1:
        case 2: {
          auto put = store.Reserve(ns, KeyOf(n), {.bytes = 1000 + n * 20});
          if (!put.ok()) break;
          FillValue(n, (*put)->memory());
          if (random() % 8 != 0) CommitNow(**put, std::nullopt).IgnoreError();
          break;
        }
        case 3:
        case 4:
        case 5: {
          const auto get = store.Acquire(ns, KeyOf(n), nullptr);
          if (get == nullptr) break;
          ++hits;
          ASSERT_TRUE(ValueIsWhole(n, get->memory()));
          ASSERT_TRUE(get->Verify({}).ok());
          break;
        }
        case 6:
          store.Remove(ns, KeyOf(n), random() % 2 == 0);
          store.List(ns, "", KeyOf(n).bytes(), 20);
          break;
        default:
          store.Pin(ns, KeyOf(n), thread, absl::Microseconds(1 + random() % 1000));
          store.Hold(ns, block);
          store.Usage();
          store.Release(ns, block);
          store.UnpinAll(thread);
      }
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t) threads.emplace_back(work, t);
  for (std::thread& thread : threads) thread.join();

  EXPECT_GT(hits.load(), 0u);
  const PageStoreUsage usage = store.Usage();
  EXPECT_EQ(usage.pinned_bytes, 0u);
  EXPECT_EQ(usage.host.slots, usage.objects) << "every slot belongs to an object";
  EXPECT_EQ(usage.eviction.evicted_objects, evicted.load());
  EXPECT_EQ(usage.checksum_failures, 0u);
  for (const ObjectRow& row : store.List(ns, "", "", 10000)) {
    EXPECT_TRUE(store.Remove(ns, row.key, false));
  }
  EXPECT_EQ(store.Usage().objects, 0u);
  EXPECT_EQ((*tier)->Usage().slots, 0u);
  EXPECT_EQ((*tier)->Usage().rejected_frees, 0u);
}

TEST(PageStoreThreadsTest, OneOfManyWritersWins) {
  auto tier = tier::HostTier::Create({.capacity_bytes = 1 << 20});
  ASSERT_TRUE(tier.ok());
  auto created = PageStore::Create(tier->get(), {}, &base::SystemClock::Get());
  ASSERT_TRUE(created.ok());
  PageStore& store = **created;
  const NamespaceId ns = *store.InternNamespace("n");
  for (uint64_t round = 0; round < 50; ++round) {
    std::atomic<int> winners{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        auto put = store.Reserve(ns, KeyOf(round), {.bytes = 500});
        if (!put.ok()) {
          EXPECT_EQ(put.status().code(), absl::StatusCode::kAlreadyExists);
          return;
        }
        FillValue(round, (*put)->memory());
        const absl::Status status = CommitNow(**put, std::nullopt);
        if (status.ok()) ++winners;
        EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kAlreadyExists);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(winners.load(), 1);
    EXPECT_EQ(store.Usage().host.slots, round + 1);
  }
}

// A host tier whose users all look at its usage before any of them goes on.
class MeetingTier final : public tier::HostTier {
 public:
  explicit MeetingTier(std::unique_ptr<tier::HostTier> tier)
      : HostTier(tier->capacity_bytes()), tier_(std::move(tier)) {}
  // The next look of each of so many threads waits for those of the others.
  void Meet(int threads) { meeting_ = std::make_unique<std::latch>(threads); }
  void Part() { meeting_.reset(); }
  // Grow lasts until StopGrowing.
  void GrowForEver() { grows_for_ever_ = true; }
  void AwaitGrowing() { growing_.wait(); }
  const char* name() const override { return "meeting"; }
  tier::TierUsage Usage() const override {
    thread_local bool met = false;
    const tier::TierUsage usage = tier_->Usage();
    if (meeting_ != nullptr && !std::exchange(met, true)) meeting_->arrive_and_wait();
    return usage;
  }
  std::vector<Extent> Holes() const override { return tier_->Holes(); }
  std::span<std::byte> memory() const override { return tier_->memory(); }
  absl::Status Grow(uint64_t capacity_bytes) override {
    if (!grows_for_ever_) return tier_->Grow(capacity_bytes);
    growing_.count_down();
    told_to_stop_.wait();
    return absl::CancelledError("told to stop");
  }
  void StopGrowing() override { told_to_stop_.count_down(); }
  absl::Status Shrink(uint64_t capacity_bytes) override { return tier_->Shrink(capacity_bytes); }
  bool ReleaseBeyond() override { return tier_->ReleaseBeyond(); }

 private:
  absl::StatusOr<tier::Slot> DoReserve(uint64_t bytes) override { return tier_->Reserve(bytes); }
  void DoFree(const tier::Slot& slot) override { tier_->Free(slot); }
  std::span<std::byte> DoMap(const tier::Slot& slot) override { return tier_->Map(slot); }
  void DoWrite(const tier::Slot& slot, uint64_t offset, std::span<const std::byte> from,
               Done done) override {
    tier_->Write(slot, offset, from, std::move(done));
  }
  void DoRead(const tier::Slot& slot, uint64_t offset, std::span<std::byte> to,
              Done done) override {
    tier_->Read(slot, offset, to, std::move(done));
  }

  const std::unique_ptr<tier::HostTier> tier_;
  std::unique_ptr<std::latch> meeting_;
  bool grows_for_ever_ = false;
  std::latch growing_{1};
  std::latch told_to_stop_{1};
};

TEST(PageStoreThreadsTest, AStoreThatEndsDoesNotWaitForMemoryToGrow) {
  MeetingTier tier(*tier::HostTier::Create({.capacity_bytes = 1 << 20}));
  tier.GrowForEver();
  const auto store =
      *PageStore::Create(&tier, {.max_object_bytes = 4096}, &base::SystemClock::Get());
  absl::Status grown;
  std::thread grower(
      [&] { store->ResizeHost(1 << 20, [&](absl::Status status) { grown = std::move(status); }); });
  tier.AwaitGrowing();
  store->StopWaiting();
  grower.join();
  EXPECT_EQ(grown.code(), absl::StatusCode::kUnavailable) << grown;
}

TEST(PageStoreThreadsTest, WritersTogetherEvictNoMoreThanOneAlone) {
  constexpr uint64_t kSlot = 4096;
  auto host = tier::HostTier::Create({.capacity_bytes = 200 * kSlot});
  ASSERT_TRUE(host.ok());
  MeetingTier tier(*std::move(host));
  auto created = PageStore::Create(&tier, {.low_watermark = 0.8, .high_watermark = 0.9},
                                   &base::SystemClock::Get());
  ASSERT_TRUE(created.ok());
  PageStore& store = **created;
  const NamespaceId ns = *store.InternNamespace("n");
  uint64_t n = 0;
  for (; n < 180; ++n) {
    auto put = store.Reserve(ns, KeyOf(n), {.bytes = kSlot});
    ASSERT_TRUE(put.ok() && CommitNow(**put, std::nullopt).ok());
  }
  ASSERT_EQ(store.Usage().eviction.evicted_objects, 0u);
  tier.Meet(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, key = KeyOf(n++)] {
      EXPECT_TRUE(store.Reserve(ns, key, {.bytes = kSlot}).ok());  // and given back
    });
  }
  for (std::thread& thread : threads) thread.join();
  tier.Part();
  // From 180, and those of the others, to 160.
  EXPECT_LE(store.Usage().eviction.evicted_objects, 20u + kThreads);
  EXPECT_GE(store.Usage().eviction.evicted_objects, 20u - kThreads);
}

}  // namespace
}  // namespace varve::store
