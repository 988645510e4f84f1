// The prefetch class gives way: to demand that waits for the same threads, and between the pieces
// of its transfers.
#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "kvstore/base/metrics.h"
#include "kvstore/server/config.h"
#include "kvstore/server/core.h"
#include "kvstore/server/embedded_store.h"
#include "kvstore/server/recall_service.h"
#include "kvstore/server/transfer.h"
#include "kvstore/tier/host_tier.h"
#include "kvstore/transport/loopback.h"
#include "tests/support/assert_ok.h"
#include "tests/support/manual_executor.h"

namespace varve::server {
namespace {

// Writes end when the test says so.
class HeldEndpoint final : public transport::Endpoint {
 public:
  struct Write {
    size_t bytes = 0;
    transport::Done done;
  };
  explicit HeldEndpoint(std::deque<Write>& writes) : writes_(writes) {}
  absl::StatusOr<std::unique_ptr<transport::RemoteRegion>> Import(const std::string&) override {
    return absl::UnimplementedError("");
  }
  void Close() override {}
  absl::Status Health() const override { return absl::OkStatus(); }
  const char* lane() const override { return "loopback"; }

 private:
  void DoRead(std::vector<transport::Segment>, absl::Time, transport::Done done) override {
    std::move(done)(absl::UnimplementedError(""));
  }
  void DoWrite(std::vector<transport::Segment> segments, absl::Time,
               transport::Done done) override {
    size_t bytes = 0;
    for (const transport::Segment& segment : segments) bytes += segment.local.size();
    writes_.push_back({bytes, std::move(done)});
  }

  std::deque<Write>& writes_;
};

class AnyRegion final : public transport::RemoteRegion {
 public:
  AnyRegion() : RemoteRegion(1 << 30, Way::kDirect) {}
};

class RequestClass : public ::testing::Test {
 protected:
  void SetUp() override {
    auto tier = tier::HostTier::Create({.capacity_bytes = 4 << 20});
    ASSERT_OK(tier.status());
    tier_ = *std::move(tier);
    auto pages = store::PageStore::Create(tier_.get(), {}, &base::SystemClock::Get());
    ASSERT_OK(pages.status());
    pages_ = *std::move(pages);
    auto contexts = recall::ContextTable::Create(pages_.get(), {});
    ASSERT_OK(contexts.status());
    contexts_ = *std::move(contexts);
    transport_ = transport::MakeLoopbackTransport();
    core_.reset(new Core{config_, metrics_, *pages_, *contexts_, sessions_, streams_, *transport_,
                         data_, data_, recall_, data_, data_, ""});
    auto session = sessions_.Open({}, std::make_unique<HeldEndpoint>(writes_));
    ASSERT_OK(session.status());
    session_ = *std::move(session);
  }
  void TearDown() override {
    session_.reset();
    sessions_.EndAll(EndMode::kAbrupt, absl::OkStatus());
    data_.RunAll();
  }
  std::vector<transport::Segment> Segments(size_t count, size_t bytes) {
    memory_.resize(bytes);
    return std::vector<transport::Segment>(count, {memory_, &region_});
  }

  const varve::v1::StoreConfig config_ = DefaultStoreConfig();
  base::Metrics registry_;
  StoreMetrics metrics_{registry_, "", ""};
  base::ManualExecutor data_, recall_;
  std::deque<HeldEndpoint::Write> writes_;
  std::unique_ptr<tier::HostTier> tier_;
  std::unique_ptr<store::PageStore> pages_;
  std::unique_ptr<recall::ContextTable> contexts_;
  OpenStreams streams_;
  SessionTable sessions_{SessionLimits{4, 2, 1024}, &data_, [](uint64_t) {}};
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<Core> core_;
  SessionRef session_;
  std::vector<std::byte> memory_;
  AnyRegion region_;
};

TEST_F(RequestClass, DemandTakesItsTurnBeforePrefetch) {
  varve::v1::RecallRequest prefetch, demand;
  varve::v1::RecallReply reply;
  prefetch.set_prefetch(true);
  std::string order;
  for (int i = 0; i < 3; ++i) {
    StartRecall(*core_, prefetch, &reply, [&order](const absl::Status&) { order += "p"; });
  }
  StartRecall(*core_, demand, &reply, [&order](const absl::Status&) { order += "d"; });
  recall_.RunOne();
  EXPECT_EQ(order, "d");
  recall_.RunAll();
  EXPECT_EQ(order, "dppp");
}

TEST_F(RequestClass, APatientTransferIsSentPieceByPiece) {
  std::vector<absl::Status> ends;
  StartPatientTransfer(*core_, session_, Segments(10, 100 << 10), absl::InfiniteFuture(),
                       [&](absl::Status status) { ends.push_back(std::move(status)); });
  std::vector<size_t> pieces;
  while (ends.empty()) {
    ASSERT_EQ(writes_.size(), 1u) << "one piece at a time";
    HeldEndpoint::Write piece = std::move(writes_.front());
    writes_.pop_front();
    pieces.push_back(piece.bytes);
    std::move(piece.done)(absl::OkStatus());
    // What waits for a data thread meanwhile goes first.
    bool ran = false;
    data_.Run([&ran] { ran = true; });
    data_.RunOne();
    EXPECT_TRUE(ran);
    EXPECT_TRUE(writes_.empty());
    data_.RunAll();
  }
  EXPECT_EQ(pieces, std::vector<size_t>({300 << 10, 300 << 10, 300 << 10, 100 << 10}));
  EXPECT_EQ(ends, std::vector<absl::Status>({absl::OkStatus()}));
}

TEST_F(RequestClass, APatientTransferEndsWithItsFirstFailure) {
  std::vector<absl::Status> ends;
  StartPatientTransfer(*core_, session_, Segments(10, 100 << 10), absl::InfiniteFuture(),
                       [&](absl::Status status) { ends.push_back(std::move(status)); });
  ASSERT_EQ(writes_.size(), 1u);
  std::move(writes_.front().done)(absl::DeadlineExceededError("late"));
  data_.RunAll();
  EXPECT_EQ(writes_.size(), 1u);
  ASSERT_EQ(ends.size(), 1u);
  EXPECT_TRUE(absl::IsDeadlineExceeded(ends.front()));
}

}  // namespace
}  // namespace varve::server
