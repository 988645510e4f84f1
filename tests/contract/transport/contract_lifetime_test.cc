// The part of the contract of kvstore/transport/transport.h that is about time: what ends a
// transfer, and what holds while one is under way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "tests/contract/transport/await.h"
#include "tests/contract/transport/contract.h"

namespace varve::transport {
namespace {

using ::testing::Each;

TEST_P(ContractTest, UnregisteringWaitsForTransfersUnderWay) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  for (int round = 0; round < 20; ++round) {
    auto memory = std::make_unique<std::vector<std::byte>>(2 << 20);
    std::vector<std::byte> local(2 << 20);
    auto region = client_->Register(*memory);
    ASSERT_TRUE(region.ok());
    const auto remote = Import(*endpoint, **region);
    Results results;
    for (int i = 0; i < 8; ++i) {
      endpoint->Write({{local, remote.get(), 0}}, In(absl::Seconds(30)), results.Next());
      endpoint->Read({{local, remote.get(), 0}}, In(absl::Seconds(30)), results.Next());
    }
    region->reset();
    memory.reset();  // a late access would be seen by AddressSanitizer
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.runs(), Each(1));
  }
}

TEST_P(ContractTest, CloseEndsOutstandingTransfers) {
  for (Memory memory : {Memory::kRegistered, Memory::kAllocated}) {
    const auto endpoint = Connect();
    ASSERT_NE(endpoint, nullptr);
    const auto region = MakeRegion(memory, 4 << 20);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local(4 << 20);
    Results results;
    std::thread poster([&] {
      for (int i = 0; i < 60; ++i) {
        auto post = i % 2 == 0 ? &Endpoint::Write : &Endpoint::Read;
        (endpoint.get()->*post)({{local, remote.get(), 0}}, In(absl::Seconds(30)), results.Next());
        if (i == 20) endpoint->Close();
      }
    });
    poster.join();
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.runs(), Each(1));
    for (const absl::Status& status : results.statuses()) {
      EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kCancelled) << status;
    }
    EXPECT_EQ(WriteAll(*endpoint, {{local, remote.get(), 0}}).code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(endpoint->Health().code(), absl::StatusCode::kCancelled);
  }
}

TEST_P(ContractTest, NothingBeginsAfterClose) {
  for (int round = 0; round < 20; ++round) {
    const auto endpoint = Connect();
    ASSERT_NE(endpoint, nullptr);
    const auto region = MakeRegion(Memory::kAllocated, 4096);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local(4096, std::byte{1});
    endpoint->Close();
    EXPECT_EQ(endpoint->Health().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(WriteAll(*endpoint, {{local, remote.get(), 0}}).code(), absl::StatusCode::kCancelled);
    EXPECT_THAT(region->memory(), Each(std::byte{0}));
  }
}

TEST_P(ContractTest, DestructorWaitsForEveryDone) {
  for (int round = 0; round < 20; ++round) {
    auto endpoint = Connect();
    ASSERT_NE(endpoint, nullptr);
    const auto region = MakeRegion(Memory::kRegistered, 1 << 20);
    auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local(1 << 20);
    Results results;
    for (int i = 0; i < 10; ++i)
      endpoint->Read({{local, remote.get(), 0}}, In(absl::Seconds(30)), results.Next());
    endpoint.reset();
    EXPECT_THAT(results.runs(), Each(1));
    remote.reset();
  }
}

TEST_P(ContractTest, DoneMayPostAndClose) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  for (Memory memory : {Memory::kRegistered, Memory::kAllocated}) {
    const auto region = MakeRegion(memory, 1000);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local(1000);
    Results results;
    int left = 2'000;
    std::function<void(absl::Status)> next =
        [&, last = std::make_shared<Done>(results.Next())](absl::Status status) {
          if (!status.ok() || --left == 0) return std::move(*last)(status);
          endpoint->Write({{local, remote.get(), 0}}, In(absl::Seconds(60)), next);
        };
    next(absl::OkStatus());
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.statuses(), Each(absl::OkStatus()));
    EXPECT_EQ(left, 0);
  }
  const auto region = MakeRegion(Memory::kRegistered, 1000);
  const auto remote = Import(*endpoint, *region);
  std::vector<std::byte> local(1000);
  Results results;
  endpoint->Write({{local, remote.get(), 0}}, In(absl::Seconds(30)),
                  [&, done = results.Next()](auto status) mutable {
                    endpoint->Close();
                    std::move(done)(status);
                  });
  ASSERT_TRUE(results.Wait());
  EXPECT_EQ(WriteAll(*endpoint, {{local, remote.get(), 0}}).code(), absl::StatusCode::kCancelled);
}

TEST_P(ContractTest, ADeadlineInThePastMovesNothing) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  for (Memory memory : {Memory::kRegistered, Memory::kAllocated}) {
    const auto region = MakeRegion(memory, 1000);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local = RandomBytes(1000);
    EXPECT_EQ(WriteAll(*endpoint, {{local, remote.get(), 0}}, -absl::Seconds(1)).code(),
              absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(region->memory(), Each(std::byte{0}));
    Results results;
    endpoint->Write({{local, remote.get(), 0}}, absl::InfiniteFuture(), results.Next());
    EXPECT_TRUE(WaitFor(results).ok());
  }
}

// Sleeps in its first copy until a deadline is over.
class LateCopier final : public Copier {
 public:
  explicit LateCopier(absl::Time deadline) : deadline_(deadline) {}
  void Copy(void* to, const void* from, size_t bytes) override {
    absl::SleepFor(deadline_ - absl::Now() + absl::Milliseconds(1));
    std::memcpy(to, from, bytes);
  }

 private:
  const absl::Time deadline_;
};

TEST_P(ContractTest, ADeadlineHoldsForMappedMemoryToo) {
  const auto endpoint = Connect();
  const auto region = MakeRegion(Memory::kAllocated, 4 << 20);
  const auto remote = Import(*endpoint, *region);
  if (remote->way() != RemoteRegion::Way::kMapped) return;
  std::vector<std::byte> bytes(4 << 20, std::byte{1});
  const absl::Time deadline = In(absl::Seconds(1));
  LateCopier late(deadline);
  Results results;
  endpoint->Write({{bytes, remote.get(), 0, &late}}, deadline, results.Next());
  EXPECT_EQ(WaitFor(results).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(region->memory()[bytes.size() - 1], std::byte{0});
  EXPECT_FALSE(endpoint->Health().ok());
}

TEST_P(ContractTest, APeerThatWentAwayIsUnavailable) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  auto region = MakeRegion(Memory::kRegistered, 100'000);
  const auto remote = Import(*endpoint, *region);
  const std::string address = client_->Address();
  region.reset();
  client_.reset();
  std::vector<std::byte> local(100'000);
  const absl::Status status = WriteAll(*endpoint, {{local, remote.get(), 0}}, absl::Seconds(5));
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.code(), absl::StatusCode::kInternal) << status;
}

TEST_P(ContractTest, OneClientOfTwoStores) {
  const auto second = GetParam().make();
  const auto region = MakeRegion(Memory::kRegistered, 1 << 20);
  const auto first_endpoint = Connect();
  auto second_endpoint = second->Connect(client_->Address());
  ASSERT_TRUE(second_endpoint.ok()) << second_endpoint.status();
  std::vector<std::byte> sent = RandomBytes(1 << 20), got(1 << 20);
  const auto first_remote = Import(*first_endpoint, *region);
  const auto second_remote = Import(**second_endpoint, *region);
  ASSERT_TRUE(WriteAll(*first_endpoint, {{sent, first_remote.get(), 0}}).ok());
  ASSERT_TRUE(ReadAll(**second_endpoint, {{got, second_remote.get(), 0}}).ok());
  EXPECT_EQ(got, sent);
}
}  // namespace
}  // namespace varve::transport
