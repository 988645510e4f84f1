// The store's data path over a transport that does what the test says: fails, hangs, corrupts.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <list>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kvstore/base/mutex.h"
#include "kvstore/server/embedded_store.h"
#include "kvstore/server/server.h"
#include "tests/integration/store_harness.h"

namespace varve::testing {
namespace {

namespace v1 = varve::v1;
using ::testing::HasSubstr;

// What happens to transfers, set by the test. Thread-safe.
struct Faults {
  base::Mutex mutex;
  absl::Status result ABSL_GUARDED_BY(mutex);  // of transfers that complete
  bool hold ABSL_GUARDED_BY(mutex) = false;    // transfers wait for Release or Close
  bool corrupt ABSL_GUARDED_BY(mutex) =
      false;  // a transfer to the client damages the store's own memory
  int held ABSL_GUARDED_BY(mutex) = 0;
  bool closed ABSL_GUARDED_BY(mutex) = false;  // the endpoint itself is as broken as `result` says
  bool stopped ABSL_GUARDED_BY(mutex) = true;  // clients at the address "stopped" do not answer
  int connecting ABSL_GUARDED_BY(mutex) = 0;   // to such clients
  base::CondVar changed;

  void Set(absl::Status status, bool hold_them, bool corrupt_them) {
    base::MutexLock lock(mutex);
    result = std::move(status);
    closed = false;
    hold = hold_them;
    corrupt = corrupt_them;
  }
  void Close(absl::Status status) {
    base::MutexLock lock(mutex);
    result = std::move(status);
    closed = true;
  }
  int Held() {
    base::MutexLock lock(mutex);
    return held;
  }
  int Connecting() {
    base::MutexLock lock(mutex);
    return connecting;
  }
  void AwaitContinued() {
    base::MutexLock lock(mutex);
    ++connecting;
    while (stopped) changed.Wait(mutex);
    --connecting;
  }
  void Continue() {
    base::MutexLock lock(mutex);
    stopped = false;
    changed.NotifyAll();
  }
};

class FakeRegion final : public transport::RemoteRegion {
 public:
  FakeRegion(size_t bytes, Way way) : RemoteRegion(bytes, way) {}
};

class FaultyEndpoint final : public transport::Endpoint {
 public:
  explicit FaultyEndpoint(Faults& faults) : faults_(faults) {}
  ~FaultyEndpoint() override { Close(); }
  absl::StatusOr<std::unique_ptr<transport::RemoteRegion>> Import(
      const std::string& descriptor) override {
    using Way = transport::RemoteRegion::Way;
    Way way = Way::kDirect;
    if (descriptor.starts_with("mapped")) way = Way::kMapped;
    if (descriptor.starts_with("copied")) way = Way::kCopied;
    return std::make_unique<FakeRegion>(1000000, way);
  }
  void Close() override { Complete(absl::CancelledError("endpoint closed")); }
  // As the real ones: when the peer stalled or is gone, the endpoint is closed.
  absl::Status Health() const override {
    base::MutexLock lock(faults_.mutex);
    return faults_.closed ? faults_.result : absl::OkStatus();
  }
  const char* lane() const override { return "loopback"; }
  void Complete(const absl::Status& status) {
    std::list<transport::Done> dones;
    {
      base::MutexLock lock(faults_.mutex);
      dones.swap(waiting_);
      faults_.held -= static_cast<int>(dones.size());
    }
    for (transport::Done& done : dones) std::move(done)(status);
  }

 private:
  void DoRead(std::vector<transport::Segment> segments, absl::Time, transport::Done done) override {
    for (const transport::Segment& segment : segments) {
      std::vector<std::byte> remote(segment.local.size());
      FillPattern(remote, 1);
      transport::CopyWith(segment.copier, segment.local.data(), remote.data(), remote.size());
    }
    Go(std::move(done));
  }
  void DoWrite(std::vector<transport::Segment> segments, absl::Time,
               transport::Done done) override {
    {
      base::MutexLock lock(faults_.mutex);
      if (faults_.corrupt) segments[0].local[0] ^= std::byte{1};
    }
    for (const transport::Segment& segment : segments) {
      std::vector<std::byte> remote(segment.local.size());
      transport::CopyWith(segment.copier, remote.data(), segment.local.data(), remote.size());
    }
    Go(std::move(done));
  }
  void Go(transport::Done done) {
    absl::Status status;
    {
      base::MutexLock lock(faults_.mutex);
      if (faults_.hold) {
        waiting_.push_back(std::move(done));
        ++faults_.held;
        return;
      }
      status = faults_.result;
    }
    std::move(done)(status);
  }
  Faults& faults_;
  std::list<transport::Done> waiting_ ABSL_GUARDED_BY(faults_.mutex);
};

class FaultyTransport final : public transport::Transport {
 public:
  explicit FaultyTransport(Faults& faults) : faults_(faults) {}
  const char* name() const override { return "faulty"; }
  std::string Address() const override { return "faulty"; }
  absl::StatusOr<std::unique_ptr<transport::Region>> Register(std::span<std::byte>) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<std::unique_ptr<transport::Region>> Allocate(size_t) override {
    return absl::UnimplementedError("");
  }
  FaultyEndpoint* last() { return last_; }

 private:
  absl::StatusOr<std::unique_ptr<transport::Endpoint>> DoConnect(
      const std::string& address, absl::Duration /*timeout*/) override {
    if (address == "gone") return absl::UnavailableError("nobody there");
    if (address == "stopped") {
      faults_.AwaitContinued();
      return absl::UnavailableError("it did not answer in time");
    }
    auto endpoint = std::make_unique<FaultyEndpoint>(faults_);
    last_ = endpoint.get();
    return endpoint;
  }

  Faults& faults_;
  std::atomic<FaultyEndpoint*> last_{nullptr};
};

class StoreFaultsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    server::ServerOptions options;
    options.config = server::DefaultStoreConfig();
    options.config.mutable_host_tier()->set_capacity_bytes(64 << 20);
    options.config.mutable_sessions()->set_max_connecting(kMaxConnecting);
    options.config.set_listen("127.0.0.1:0");
    options.config.set_http_listen("127.0.0.1:0");
    auto transport = std::make_unique<FaultyTransport>(faults_);
    transport_ = transport.get();
    options.transport = std::move(transport);
    auto server = server::StoreServer::Start(std::move(options));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::Store::NewStub(server_->InProcessChannel());
    ASSERT_TRUE(OpenSession("here"));
    ASSERT_EQ(Register(1, "direct"), "");
  }
  // A region of 1000000 bytes that is reached that way: direct, mapped, copied. What the store
  // says against it.
  std::string Register(uint64_t region_id, const std::string& way) {
    v1::SessionRequest request;
    request.mutable_register_region()->set_region_id(region_id);
    request.mutable_register_region()->set_descriptor_bytes(way);
    v1::SessionReply reply;
    if (!session_->Write(request) || !session_->Read(&reply)) return "the stream is over";
    return reply.region().error();
  }
  bool OpenSession(const std::string& address) {
    context_ = std::make_unique<grpc::ClientContext>();
    session_ = stub_->Session(context_.get());
    v1::SessionRequest request;
    request.mutable_open()->set_transport_address(address);
    v1::SessionReply reply;
    if (!session_->Write(request) || !session_->Read(&reply)) return false;
    session_id_ = reply.opened().session_id();
    return true;
  }
  v1::PutItemResult Put(const std::string& key, uint64_t region_id = 1) {
    v1::PutRequest request;
    request.set_session_id(session_id_);
    v1::PutItem* item = request.add_items();
    item->set_key(Key(key));
    v1::MemoryRef* ref = item->add_sources();
    ref->set_region_id(region_id);
    ref->set_bytes(100000);
    v1::PutReply reply;
    const grpc::Status status = Call(*stub_, &v1::Store::Stub::Put, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return status.ok() ? reply.results(0) : v1::PutItemResult();
  }
  v1::GetItemResult Get(const std::string& key, uint64_t region_id = 1) {
    v1::GetRequest request;
    request.set_session_id(session_id_);
    v1::GetItem* item = request.add_items();
    item->set_key(Key(key));
    v1::MemoryRef* ref = item->add_destinations();
    ref->set_region_id(region_id);
    ref->set_bytes(100000);
    v1::GetReply reply;
    const grpc::Status status = Call(*stub_, &v1::Store::Stub::Get, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return status.ok() ? reply.results(0) : v1::GetItemResult();
  }
  v1::StoreStatus Status() {
    v1::StoreStatus reply;
    EXPECT_TRUE(Call(*stub_, &v1::Store::Stub::GetStatus, v1::GetStatusRequest(), &reply).ok());
    return reply;
  }
  grpc::Status AwaitSessionEnd() {
    v1::SessionReply reply;
    while (session_->Read(&reply)) {
    }
    return session_->Finish();
  }
  void TearDown() override {
    faults_.Set(absl::OkStatus(), false, false);
    faults_.Continue();
    context_->TryCancel();
    session_.reset();
    server_.reset();
  }

  static constexpr int kMaxConnecting = 10;
  Faults faults_;
  FaultyTransport* transport_ = nullptr;
  std::unique_ptr<server::StoreServer> server_;
  std::unique_ptr<v1::Store::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionReply>> session_;
  std::string session_id_;
};

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
