// Clients that come and go, and calls in flight when they do.
#include <dirent.h>

#include <atomic>
#include <latch>
#include <thread>

#include "gmock/gmock.h"
#include "tests/contract/client/fixture.h"

namespace varve::client::testing {
namespace {

size_t EntriesOf(const char* folder) {
  DIR* const dir = opendir(folder);
  size_t count = 0;
  while (dir != nullptr && readdir(dir) != nullptr) ++count;
  if (dir != nullptr) closedir(dir);
  return count;
}
size_t OpenFiles() { return EntriesOf("/proc/self/fd"); }
size_t Threads() { return EntriesOf("/proc/self/task"); }

class LifetimeTest : public ClientTest {};
VARVE_EACH_LANE(LifetimeTest);

TEST_P(LifetimeTest, AsyncCallsAnswerLikeBlockingOnes) {
  constexpr int kCalls = 64;
  const auto from = Allocate(kCalls * 1000), to = Allocate(kCalls * 1000);
  Fill(*from, 0, RandomBytes(1, kCalls * 1000));
  std::atomic<int> stored = 0, hits = 0;
  std::latch put(kCalls), got(kCalls);
  for (size_t i = 0; i < kCalls; ++i) {
    client().PutAsync(
        {{.key = Key("async-" + std::to_string(i)), .sources = {{from.get(), i * 1000, 1000}}}},
        [&](const auto& results) {
          stored += results.ok() && results->at(0).outcome == PutOutcome::kStored;
          put.count_down();
        });
  }
  put.wait();
  EXPECT_EQ(stored, kCalls);
  for (size_t i = 0; i < kCalls; ++i) {
    client().GetAsync(
        {{.key = Key("async-" + std::to_string(i)), .destinations = {{to.get(), i * 1000, 1000}}}},
        [&](const auto& results) {
          hits += results.ok() && results->at(0).hit;
          got.count_down();
        });
  }
  got.wait();
  EXPECT_EQ(hits, kCalls);
  EXPECT_EQ(Bytes(*to, 0, kCalls * 1000), Bytes(*from, 0, kCalls * 1000));
}

TEST_P(LifetimeTest, AsyncBatchesAboveTheLimitAreSplit) {
  const size_t count = 2 * client().limits().max_batch_items + 1;
  const auto memory = Allocate(8);
  std::vector<PutItem> items;
  for (size_t i = 0; i < count; ++i) {
    items.push_back({.key = Key("split-" + std::to_string(i)), .sources = {{memory.get(), 0, 8}}});
  }
  size_t stored = 0;
  std::latch put(1);
  client().PutAsync(std::move(items), [&](const auto& results) {
    for (size_t i = 0; results.ok() && i < results->size(); ++i) {
      stored += results->at(i).outcome == PutOutcome::kStored;
    }
    put.count_down();
  });
  put.wait();
  EXPECT_EQ(stored, count);
}

TEST_P(LifetimeTest, ClosingEndsCallsInFlightAndRunsTheirCallbacks) {
  constexpr int kCalls = 40;
  std::string own = RandomBytes(1, 4 << 20);
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(round);
    std::atomic<int> answered = 0;
    std::unique_ptr<Memory> memory;
    {
      Connection other = Connect(GetParam(), Namespace());
      auto registered = other->Register(std::as_writable_bytes(std::span(own)));
      ASSERT_TRUE(registered.ok()) << registered.status();
      memory = *std::move(registered);
      for (int i = 0; i < kCalls; ++i) {
        other->PutAsync({{.key = Key("flight-" + std::to_string(round * kCalls + i)),
                          .sources = {{memory.get(), 0, 1 << 20}}}},
                        [&](const auto&) { ++answered; });
      }
      memory.reset();
    }
    EXPECT_EQ(answered, kCalls) << "a callback ran late or never";
  }
}

TEST_P(LifetimeTest, TwoHundredClientsLeaveNothingBehind) {
  const auto one = [&](int i) {
    Connection other = Connect(GetParam(), Namespace());
    const auto memory = other->Allocate(4096);
    ASSERT_TRUE(memory.ok()) << memory.status();
    const std::string key = "client-" + std::to_string(i);
    ASSERT_EQ(
        other->Put(std::vector<PutItem>{{.key = Key(key), .sources = {{memory->get(), 0, 4096}}}})
            .value()[0]
            .outcome,
        PutOutcome::kStored);
  };
  // The first ones start what gRPC and UCX keep for the life of a process.
  for (int i = 0; i < 10; ++i) ASSERT_NO_FATAL_FAILURE(one(i));
  const size_t files = OpenFiles(), threads = Threads();
  for (int i = 10; i < 210; ++i) ASSERT_NO_FATAL_FAILURE(one(i));
  // gRPC's pool of threads breathes; nothing may grow with the number of clients.
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while ((OpenFiles() > files + 4 || Threads() > threads + 8) && absl::Now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_LE(OpenFiles(), files + 4);
  EXPECT_LE(Threads(), threads + 8);
}

}  // namespace
}  // namespace varve::client::testing
