// An embedded store over a transport that does what the test says: fails, hangs, corrupts.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <list>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kvstore/base/mutex.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/object_key.h"
#include "kvstore/server/embedded_store.h"
#include "kvstore/server/server.h"
#include "tests/integration/store_harness.h"

namespace varve::testing {
namespace v1 = varve::v1;

// What happens to transfers, set by the test. Thread-safe.
struct Faults {
  base::Mutex mutex;
  absl::Status result ABSL_GUARDED_BY(mutex);  // of transfers that complete
  bool hold ABSL_GUARDED_BY(mutex) = false;    // transfers wait for Release or Close
  // A transfer to the client damages the store's own memory.
  bool corrupt ABSL_GUARDED_BY(mutex) = false;
  int held ABSL_GUARDED_BY(mutex) = 0;
  bool block ABSL_GUARDED_BY(mutex) = false;   // whoever starts a transfer to the client waits
  int writes ABSL_GUARDED_BY(mutex) = 0;       // transfers to the client that were started
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
  void Block(bool block_them) {
    base::MutexLock lock(mutex);
    block = block_them;
    changed.NotifyAll();
  }
  int Writes() {
    base::MutexLock lock(mutex);
    return writes;
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
      ++faults_.writes;
      while (faults_.block) faults_.changed.Wait(faults_.mutex);
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
    options.config.mutable_host_tier()->set_verify_reads(verify_reads_);
    options.config.mutable_sessions()->set_max_connecting(kMaxConnecting);
    options.config.mutable_recall()->set_threads(1);
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
  // One layer, one KV head; the block's object is stored. Answers the epoch.
  uint32_t MakeContextOfOneBlock(const std::string& id) {
    const page::Geometry g{1, 1, 1, 32, 8, page::DType::kF32};
    v1::OpenContextRequest open;
    open.set_session_id(session_id_);
    open.set_context_id(id);
    open.mutable_geometry()->set_num_layers(g.num_layers);
    open.mutable_geometry()->set_num_kv_heads(g.num_kv_heads);
    open.mutable_geometry()->set_num_query_heads(g.num_query_heads);
    open.mutable_geometry()->set_head_dim(g.head_dim);
    open.mutable_geometry()->set_page_tokens(g.page_tokens);
    open.mutable_geometry()->set_dtype(v1::DTYPE_F32);
    open.set_digest_kind(v1::DIGEST_KIND_MEAN);
    v1::ContextInfo info;
    EXPECT_TRUE(Call(*stub_, &v1::Store::Stub::OpenContext, open, &info).ok());
    v1::AppendContextRequest append;
    append.set_session_id(session_id_);
    append.set_context_id(id);
    append.add_block_hashes(kHash);
    EXPECT_TRUE(Call(*stub_, &v1::Store::Stub::AppendContext, append, &info).ok());
    v1::PutRequest put;
    put.set_session_id(session_id_);
    v1::PutItem* item = put.add_items();
    item->set_key(std::string(page::MakeObjectKey(kHash, 0)->bytes()));
    item->mutable_layout()->set_num_kv_heads(1);
    item->mutable_layout()->set_part_bytes(static_cast<uint32_t>(g.part_bytes()));
    item->add_sources()->set_region_id(1);
    item->mutable_sources(0)->set_bytes(g.object_bytes());
    v1::PutReply put_reply;
    EXPECT_TRUE(Call(*stub_, &v1::Store::Stub::Put, put, &put_reply).ok());
    grpc::ClientContext context;
    auto digests = stub_->StreamDigests(&context);
    v1::DigestBatch batch;
    batch.set_session_id(session_id_);
    batch.set_context_id(id);
    batch.set_epoch(info.epoch());
    batch.set_num_blocks(1);
    batch.set_rows(std::string(g.head_dim * sizeof(float), '\0'));
    v1::DigestAck ack;
    EXPECT_TRUE(digests->Write(batch) && digests->Read(&ack));
    EXPECT_EQ(ack.error(), "");
    digests->WritesDone();
    EXPECT_TRUE(digests->Finish().ok());
    return info.epoch();
  }
  grpc::Status Recall(const std::string& id, uint32_t epoch, uint32_t deadline_ms) {
    v1::RecallRequest request;
    request.set_session_id(session_id_);
    request.set_context_id(id);
    request.set_epoch(epoch);
    request.set_deadline_ms(deadline_ms);
    v1::LayerRecall* layer = request.add_layers();
    for (int i = 0; i < 32; ++i) layer->add_queries(1);
    v1::HeadRecall* head = layer->add_heads();
    head->set_budget_pages(1);
    head->add_slots()->set_region_id(1);
    head->mutable_slots(0)->set_bytes(100000);
    v1::RecallReply reply;
    return Call(*stub_, &v1::Store::Stub::Recall, request, &reply);
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
    faults_.Block(false);
    faults_.Continue();
    context_->TryCancel();
    session_.reset();
    server_.reset();
  }

  bool verify_reads_ = true;
  static constexpr int kMaxConnecting = 10;
  static constexpr const char* kHash = "block-hash-1000";
  Faults faults_;
  FaultyTransport* transport_ = nullptr;
  std::unique_ptr<server::StoreServer> server_;
  std::unique_ptr<v1::Store::Stub> stub_;
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionReply>> session_;
  std::string session_id_;
};

}  // namespace varve::testing
