// What the fault decorator promises, over loopback.
#include "kvstore/transport/fault.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kvstore/transport/loopback.h"
#include "tests/contract/transport/await.h"

namespace varve::transport {
namespace {

using ::testing::Each;
using Kind = Fault::Kind;

class FaultTest : public ::testing::Test {
 protected:
  void Start(FaultPlan plan) {
    client_ = MakeLoopbackTransport();
    memory_.assign(1000, std::byte{7});
    region_ = *client_->Register(memory_);
    store_ = MakeFaultTransport(MakeLoopbackTransport(), std::move(plan));
    endpoint_ = *store_->Connect(client_->Address());
    remote_ = *endpoint_->Import(region_->descriptor());
  }
  void TearDown() override {
    remote_.reset();
    endpoint_.reset();
    store_.reset();
    region_.reset();
  }
  static FaultPlan Rule(uint64_t transfer, Fault fault) {
    FaultPlan plan;
    plan.rules.push_back({transfer, std::move(fault)});
    return plan;
  }
  std::vector<Segment> All() { return {{local_, remote_.get(), 0}}; }

  std::vector<std::byte> local_ = std::vector<std::byte>(1000, std::byte{9});
  std::vector<std::byte> memory_;
  std::unique_ptr<Transport> client_, store_;
  std::unique_ptr<Region> region_;
  std::unique_ptr<Endpoint> endpoint_;
  std::unique_ptr<RemoteRegion> remote_;
};

TEST_F(FaultTest, FailsTheNthTransferAlone) {
  Start(Rule(1, {.kind = Kind::kFail, .status = absl::AbortedError("third rail")}));
  EXPECT_TRUE(WriteAll(*endpoint_, All()).ok());
  std::fill(local_.begin(), local_.end(), std::byte{1});
  EXPECT_EQ(WriteAll(*endpoint_, All()), absl::AbortedError("third rail"));
  EXPECT_THAT(memory_, Each(std::byte{9}));
  EXPECT_TRUE(WriteAll(*endpoint_, All()).ok());
}

TEST_F(FaultTest, DelaysATransfer) {
  Start(Rule(0, {.kind = Kind::kDelay, .delay = absl::Milliseconds(30)}));
  const absl::Time start = absl::Now();
  EXPECT_TRUE(WriteAll(*endpoint_, All()).ok());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(30));
  EXPECT_THAT(memory_, Each(std::byte{9}));
}

TEST_F(FaultTest, HangsUntilTheDeadlineAndCloses) {
  Start(Rule(0, {.kind = Kind::kHang}));
  EXPECT_EQ(WriteAll(*endpoint_, All(), absl::Milliseconds(30)).code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(memory_, Each(std::byte{7}));
  EXPECT_EQ(WriteAll(*endpoint_, All()).code(), absl::StatusCode::kCancelled);
}

TEST_F(FaultTest, HoldsDoneUntilClose) {
  Start(Rule(0, {.kind = Kind::kHoldToClose}));
  Results results;
  endpoint_->Write(All(), In(absl::Milliseconds(1)), results.Next());
  EXPECT_TRUE(WriteAll(*endpoint_, All()).ok());
  EXPECT_THAT(results.runs(), Each(0));
  endpoint_->Close();
  EXPECT_EQ(WaitFor(results).code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(results.runs(), Each(1));
}

TEST_F(FaultTest, CorruptsOneByteOfARead) {
  Start(Rule(0, {.kind = Kind::kCorrupt}));
  EXPECT_TRUE(ReadAll(*endpoint_, All()).ok());
  EXPECT_EQ(std::count(local_.begin(), local_.end(), std::byte{7}), 999);
}

TEST_F(FaultTest, CorruptsOneByteOfAWriteButNotItsSource) {
  Start(Rule(0, {.kind = Kind::kCorrupt}));
  EXPECT_TRUE(WriteAll(*endpoint_, All()).ok());
  EXPECT_EQ(std::count(memory_.begin(), memory_.end(), std::byte{9}), 999);
  EXPECT_THAT(local_, Each(std::byte{9}));
}

// A checksum taken in the copy: of what arrives in a Read, of what was sent in a Write.
TEST_F(FaultTest, CopiersSeeTheCorruptionOfARead) {
  struct Summing final : Copier {
    void Copy(void* to, const void* from, size_t bytes) override {
      std::memcpy(to, from, bytes);
      for (size_t i = 0; i < bytes; ++i)
        sum += std::to_integer<int>(static_cast<const std::byte*>(to)[i]);
    }
    int sum = 0;
  };
  for (bool read : {true, false}) {
    TearDown();
    std::fill(local_.begin(), local_.end(), std::byte{9});
    Start(Rule(0, {.kind = Kind::kCorrupt}));
    Summing copier;
    std::vector<Segment> segments = All();
    for (Segment& segment : segments) segment.copier = &copier;
    ASSERT_TRUE((read ? ReadAll(*endpoint_, segments) : WriteAll(*endpoint_, segments)).ok());
    if (read) {
      EXPECT_EQ(std::count(local_.begin(), local_.end(), std::byte{7}), 999);
      EXPECT_NE(copier.sum, 7000);
    } else {
      EXPECT_EQ(std::count(memory_.begin(), memory_.end(), std::byte{9}), 999);
      EXPECT_EQ(copier.sum, 9000);
    }
  }
}

TEST_F(FaultTest, FailsConnects) {
  FaultPlan plan;
  plan.connects = {1};
  Start(std::move(plan));
  EXPECT_EQ(store_->Connect(client_->Address()).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(store_->Connect(client_->Address()).ok());
}

TEST_F(FaultTest, ChanceRepeatsWithTheSeed) {
  std::vector<std::vector<absl::Status>> runs;
  for (uint64_t seed : {5, 5, 6}) {
    FaultPlan plan;
    plan.seed = seed;
    plan.fail = 0.3;
    plan.delay = 0.1;
    plan.delay_time = absl::Milliseconds(1);
    Start(std::move(plan));
    Results results;
    for (int i = 0; i < 300; ++i) endpoint_->Write(All(), In(absl::Seconds(30)), results.Next());
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.runs(), Each(1));
    runs.push_back(results.statuses());
    TearDown();
  }
  EXPECT_EQ(runs[0], runs[1]);
  EXPECT_NE(runs[0], runs[2]);
  const auto failed =
      std::count(runs[0].begin(), runs[0].end(), absl::UnavailableError("injected fault"));
  EXPECT_GT(failed, 60);
  EXPECT_LT(failed, 120);
}

TEST_F(FaultTest, DestructionEndsWhatIsHeld) {
  Start(Rule(0, {.kind = Kind::kDelay, .delay = absl::Hours(1)}));
  Results results;
  endpoint_->Write(All(), absl::InfiniteFuture(), results.Next());
  endpoint_.reset();
  EXPECT_THAT(results.runs(), Each(1));
  EXPECT_EQ(results.statuses()[0].code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace varve::transport
