// The store's data path over a transport that fails, hangs and corrupts.
#include "tests/integration/store_faults_fixture.h"

#include <gmock/gmock.h>

#include <future>
#include <thread>

namespace varve::testing {
namespace {

using ::testing::HasSubstr;

// A worker that gave a recall up counts on it: what the store writes, it writes within the deadline
// since it read the request.
TEST_F(StoreFaultsTest, ARecallThatWaitedBeyondItsDeadlineIsNotBegun) {
  const uint32_t epoch = MakeContextOfOneBlock("c");
  faults_.Block(true);
  grpc::Status first, late;
  std::thread working([&] { first = Recall("c", epoch, 0); });
  EXPECT_TRUE(Eventually([&] { return faults_.Writes() == 1; }));  // the recall thread is taken
  std::thread waiting([&] { late = Recall("c", epoch, 1); });
  absl::SleepFor(absl::Seconds(1));
  faults_.Block(false);
  working.join();
  waiting.join();
  EXPECT_TRUE(first.ok()) << first.error_message();
  EXPECT_EQ(late.error_code(), grpc::DEADLINE_EXCEEDED) << late.error_message();
  EXPECT_EQ(faults_.Writes(), 1);
}

TEST_F(StoreFaultsTest, ADamagedObjectIsDroppedAndNeverServed) {
  ASSERT_EQ(Put("a").result(), v1::PUT_RESULT_STORED);
  faults_.Set(absl::OkStatus(), false, /*corrupt=*/true);
  EXPECT_TRUE(Get("a").hit());  // damages the stored bytes on its way
  const v1::GetItemResult second = Get("a");
  EXPECT_FALSE(second.hit());
  EXPECT_EQ(second.miss_reason(), v1::MISS_REASON_CORRUPT);
  EXPECT_EQ(Status().objects(), 0u);
  EXPECT_EQ(Put("a").result(), v1::PUT_RESULT_STORED);
  EXPECT_TRUE(Get("a").hit());
}

TEST_F(StoreFaultsTest, MetricsSayWhatWentWrong) {
  const auto metric = [&](const std::string& series) {
    std::string page;
    EXPECT_EQ(HttpGet(server_->http_address(), "/metrics", &page), 200);
    return MetricValue(page, series);
  };
  ASSERT_EQ(Put("a").result(), v1::PUT_RESULT_STORED);
  const std::pair<absl::Status, std::string> failures[] = {
      {absl::UnavailableError("x"), "peer_gone"},
      {absl::DeadlineExceededError("x"), "deadline"},
      {absl::CancelledError("x"), "cancelled"},
      {absl::OutOfRangeError("x"), "out_of_range"},
      {absl::InternalError("x"), "other"}};
  double failed = 0;
  for (const auto& [status, reason] : failures) {
    faults_.Set(status, false, false);
    EXPECT_EQ(Get("a").miss_reason(), v1::MISS_REASON_FAILED) << reason;
    EXPECT_EQ(
        metric("varve_transfer_errors_total{reason=\"" + reason + "\",transport=\"loopback\"}"), 1)
        << reason;
    EXPECT_EQ(metric("varve_miss_total{reason=\"failed\"}"), ++failed);
  }
  faults_.Set(absl::OkStatus(), false, /*corrupt=*/true);
  EXPECT_TRUE(Get("a").hit());  // damages the stored bytes on its way
  EXPECT_FALSE(Get("a").hit());
  EXPECT_EQ(metric("varve_miss_total{reason=\"corrupt\"}"), 1);
  EXPECT_EQ(metric("varve_checksum_failures_total{tier=\"host\"}"), 1);
}

// Where the processor copies, the checksum is computed in the copy.
TEST_F(StoreFaultsTest, ADamagedObjectIsDroppedByTheCopyThatFindsIt) {
  uint64_t region = 2;
  for (const char* way : {"mapped", "copied"}) {
    SCOPED_TRACE(way);
    ASSERT_EQ(Register(++region, way), "");
    ASSERT_EQ(Put(way, region).result(), v1::PUT_RESULT_STORED);
    EXPECT_TRUE(Get(way, region).hit());
    faults_.Set(absl::OkStatus(), false, /*corrupt=*/true);
    const v1::GetItemResult damaged = Get(way, region);
    faults_.Set(absl::OkStatus(), false, false);
    EXPECT_FALSE(damaged.hit());
    EXPECT_EQ(damaged.miss_reason(), v1::MISS_REASON_CORRUPT);
    EXPECT_EQ(Status().objects(), 0u);
    EXPECT_EQ(Status().tiers(0).used_bytes(), 0u);
    EXPECT_EQ(Get(way, region).miss_reason(), v1::MISS_REASON_CORRUPT) << "it is remembered";
    ASSERT_EQ(Put(way, region).result(), v1::PUT_RESULT_STORED);
    EXPECT_TRUE(Get(way, region).hit());
    v1::RemoveRequest remove;
    remove.set_session_id(session_id_);
    remove.add_keys(Key(way));
    v1::RemoveReply removed;
    ASSERT_TRUE(Call(*stub_, &v1::Store::Stub::Remove, remove, &removed).ok());
  }
}

class UncheckedReadsTest : public StoreFaultsTest {
 protected:
  UncheckedReadsTest() { verify_reads_ = false; }
};

TEST_F(UncheckedReadsTest, ADamagedObjectIsServedOnEveryWay) {
  uint64_t region = 2;
  for (const char* way : {"direct", "mapped", "copied"}) {
    SCOPED_TRACE(way);
    ASSERT_EQ(Register(++region, way), "");
    ASSERT_EQ(Put(way, region).result(), v1::PUT_RESULT_STORED);
    faults_.Set(absl::OkStatus(), false, /*corrupt=*/true);
    EXPECT_TRUE(Get(way, region).hit());
    faults_.Set(absl::OkStatus(), false, false);
    EXPECT_TRUE(Get(way, region).hit());
  }
  EXPECT_EQ(Status().objects(), 3u);
}

TEST_F(StoreFaultsTest, AFailedPutGivesItsSpaceBack) {
  faults_.Set(absl::InternalError("no luck"), false, false);
  const v1::PutItemResult result = Put("a");
  EXPECT_EQ(result.result(), v1::PUT_RESULT_FAILED);
  EXPECT_THAT(result.message(), HasSubstr("no luck"));
  EXPECT_EQ(Status().tiers(0).used_bytes(), 0u);
  faults_.Set(absl::OkStatus(), false, false);
  EXPECT_EQ(Put("a").result(), v1::PUT_RESULT_STORED);
  faults_.Set(absl::InternalError("no luck"), false, false);
  EXPECT_EQ(Get("a").miss_reason(), v1::MISS_REASON_FAILED);
  EXPECT_EQ(Status().sessions_size(), 1)
      << "only a client that is gone or stalled loses its session";
}

TEST_F(StoreFaultsTest, AStalledClientLosesItsSession) {
  ASSERT_EQ(Put("a").result(), v1::PUT_RESULT_STORED);
  faults_.Set(absl::DeadlineExceededError("over before it began"), false, false);
  EXPECT_EQ(Get("a").miss_reason(), v1::MISS_REASON_FAILED);
  EXPECT_EQ(Status().sessions_size(), 1) << "one late transfer is no stalled client";
  faults_.Close(absl::DeadlineExceededError("too slow"));
  EXPECT_EQ(Get("a").miss_reason(), v1::MISS_REASON_FAILED);
  const grpc::Status status = AwaitSessionEnd();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("too slow"));
  EXPECT_TRUE(Eventually([&] { return Status().sessions_size() == 0; }));
  EXPECT_EQ(Status().tiers(0).pinned_bytes(), 0u);
  EXPECT_EQ(Status().objects(), 1u);
  faults_.Set(absl::OkStatus(), false, false);
  EXPECT_TRUE(OpenSession("here"));
}

TEST_F(StoreFaultsTest, AClientThatDiesInMidTransferLeavesNothingPinned) {
  ASSERT_EQ(Put("a").result(), v1::PUT_RESULT_STORED);
  faults_.Set(absl::OkStatus(), /*hold=*/true, false);
  auto put = std::async(std::launch::async, [&] { return Put("b"); });
  auto get = std::async(std::launch::async, [&] { return Get("a"); });
  ASSERT_TRUE(Eventually([&] { return faults_.Held() == 2; }));
  EXPECT_GT(Status().tiers(0).pinned_bytes(), 0u);
  context_->TryCancel();
  EXPECT_EQ(put.get().result(), v1::PUT_RESULT_FAILED);
  EXPECT_EQ(get.get().miss_reason(), v1::MISS_REASON_FAILED);
  EXPECT_TRUE(Eventually([&] { return Status().sessions_size() == 0; }));
  EXPECT_EQ(Status().tiers(0).pinned_bytes(), 0u);
  EXPECT_EQ(Status().objects(), 1u);
}

TEST_F(StoreFaultsTest, ShutdownWaitsForTransfersInFlight) {
  ASSERT_EQ(Put("a").result(), v1::PUT_RESULT_STORED);
  faults_.Set(absl::OkStatus(), /*hold=*/true, false);
  auto get = std::async(std::launch::async, [&] { return Get("a"); });
  ASSERT_TRUE(Eventually([&] { return faults_.Held() == 1; }));
  auto down = std::async(std::launch::async, [&] { return server_->Shutdown(absl::Minutes(5)); });
  EXPECT_EQ(AwaitSessionEnd().error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(faults_.Held(), 1) << "the transfer was cut off";
  transport_->last()->Complete(absl::OkStatus());
  EXPECT_TRUE(get.get().hit());
  EXPECT_TRUE(down.get());
}

TEST_F(StoreFaultsTest, ShutdownCancelsWhatOutlivesTheGracePeriod) {
  ASSERT_EQ(Put("a").result(), v1::PUT_RESULT_STORED);
  faults_.Set(absl::OkStatus(), /*hold=*/true, false);
  auto get = std::async(std::launch::async, [&] { return Get("a"); });
  ASSERT_TRUE(Eventually([&] { return faults_.Held() == 1; }));
  EXPECT_FALSE(server_->Shutdown(absl::Milliseconds(50)));
  EXPECT_EQ(get.get().miss_reason(), v1::MISS_REASON_FAILED);
}

// A session that is being opened by a client that does not answer.
struct Opening {
  explicit Opening(v1::Store::Stub& stub) : stream(stub.Session(&context)) {
    v1::SessionRequest request;
    request.mutable_open()->set_transport_address("stopped");
    stream->Write(request);
  }
  ~Opening() {
    context.TryCancel();
    stream->Finish();
  }
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionReply>> stream;
};

TEST_F(StoreFaultsTest, StoppedClientsHoldUpNobodyElse) {
  std::list<Opening> stopped;
  for (int i = 0; i < kMaxConnecting - 1; ++i) stopped.emplace_back(*stub_);
  ASSERT_TRUE(Eventually([&] { return faults_.Connecting() == kMaxConnecting - 1; }));
  // All of it would wait for ever.
  EXPECT_EQ(Register(2, "direct"), "");
  ASSERT_EQ(Put("a", 2).result(), v1::PUT_RESULT_STORED);
  context_->TryCancel();
  EXPECT_TRUE(Eventually([&] { return Status().sessions_size() == 0; }));
  session_->Finish();
  ASSERT_TRUE(OpenSession("here"));
  EXPECT_EQ(Register(1, "direct"), "");
  // And there are only so many of them.
  stopped.emplace_back(*stub_);
  ASSERT_TRUE(Eventually([&] { return faults_.Connecting() == kMaxConnecting; }));
  Opening one_more(*stub_);
  v1::SessionReply reply;
  EXPECT_FALSE(one_more.stream->Read(&reply));
  EXPECT_FALSE(OpenSession("here"));
  const grpc::Status status = AwaitSessionEnd();
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("sessions.max_connecting"));
  faults_.Continue();
  stopped.clear();
  ASSERT_TRUE(Eventually([&] { return faults_.Connecting() == 0; }));
  EXPECT_TRUE(Eventually([&] { return OpenSession("here"); }));
}

TEST_F(StoreFaultsTest, UnreachableClientsAreRefused) {
  EXPECT_FALSE(OpenSession("gone"));
  const grpc::Status status = AwaitSessionEnd();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("nobody there"));
}

}  // namespace
}  // namespace varve::testing
