// Every field of every request of the sidecar out of range, as raw messages: a clear error, and the
// sidecar goes on serving another engine.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gpu_worker/remote_worker.h"
#include "gtest/gtest.h"
#include "tests/integration/worker/raw_engine.h"
#include "tests/support/assert_ok.h"
#include "tests/support/store_process.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

namespace v1 = varve::v1;
using ::testing::HasSubstr;

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};
constexpr const char* kPolicy = "arkvale(budget=4p,hot=1)";
constexpr uint64_t kTensorBytes = 1 << 20;
constexpr uint64_t kMax = ~uint64_t{0};
constexpr uint64_t kRow = 2 * 32 * sizeof(float);    // of one token, all KV heads
constexpr uint64_t kQuery = 4 * 32 * sizeof(float);  // all query heads
constexpr uint64_t kLse = 4 * sizeof(float);

v1::EngineRequest GoodEngine() {
  v1::EngineRequest request;
  v1::Geometry* geometry = request.mutable_geometry();
  geometry->set_num_layers(2);
  geometry->set_num_kv_heads(2);
  geometry->set_num_query_heads(4);
  geometry->set_head_dim(32);
  geometry->set_page_tokens(8);
  geometry->set_dtype(v1::DTYPE_F32);
  request.set_tensor_bytes(kTensorBytes);
  request.set_pool_bytes(2 << 20);
  return request;
}

void Place(uint64_t offset, uint64_t bytes, v1::TensorRef* ref) {
  ref->set_offset(offset);
  ref->set_bytes(bytes);
}

void Expect(const grpc::Status& status, grpc::StatusCode code, const std::string& says) {
  EXPECT_EQ(status.error_code(), code) << status.error_message() << "; expected " << says;
  EXPECT_THAT(status.error_message(), HasSubstr(says));
}

class WorkerBadInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    directory_ = absl::StrCat("/tmp/varve-test-", getpid(), "-", absl::ToUnixNanos(absl::Now()));
    std::filesystem::create_directory(directory_);
    auto store = StoreProcess::Start();
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
    auto sidecar = StoreProcess::StartProgram(
        "varve-worker",
        {"--listen=unix:" + directory_ + "/worker.sock", "--http_listen=127.0.0.1:0",
         "--store=" + store_->grpc_address(), "--transport.lanes=shm",
         "--shared_memory_dir=" + directory_, "--pool_bytes=16MiB", "--log_level=error"});
    ASSERT_TRUE(sidecar.ok()) << sidecar.status();
    sidecar_ = std::move(*sidecar);
    grpc::ChannelArguments arguments;
    arguments.SetMaxSendMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(sidecar_->grpc_address(),
                                         grpc::InsecureChannelCredentials(), arguments);
    worker::RemoteWorkerOptions options;
    options.address = sidecar_->grpc_address();
    options.geometry = kShape;
    options.tensor_bytes = kTensorBytes;
    options.pool_bytes = 4 << 20;
    auto remote = worker::RemoteWorker::Attach(options);
    ASSERT_TRUE(remote.ok()) << remote.status();
    other_ = std::move(*remote);
    feeder_ = std::make_unique<Feeder>(other_.get(), &Text());
    ASSERT_OK(feeder_->Prefill(kPolicy, 300));
  }
  static void TearDownTestSuite() {
    feeder_.reset();
    other_.reset();
    channel_.reset();
    sidecar_.reset();
    store_.reset();
    std::filesystem::remove_all(directory_);
  }
  static const RandomText& Text() {
    static const RandomText text(kShape, 61, 400);
    return text;
  }

  WorkerBadInput() : stub_(v1::Worker::NewStub(channel_)), engine_(stub_.get(), GoodEngine()) {}
  // Another engine is served as before.
  void TearDown() override { ASSERT_OK(feeder_->Step(feeder_->tokens())); }

  uint64_t Open(const std::string& policy = kPolicy) {
    v1::OpenSequenceRequest request;
    request.set_policy(policy);
    v1::SequenceInfo info;
    const grpc::Status status = engine_.Do(&v1::Worker::Stub::OpenSequence, request, &info);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return info.sequence_id();
  }
  v1::SequenceRef Ref(uint64_t sequence) const {
    v1::SequenceRef ref;
    ref.set_sequence_id(sequence);
    return ref;
  }
  void Extend(uint64_t sequence, int tokens) {
    v1::ExtendRequest request;
    request.set_sequence_id(sequence);
    for (int i = 0; i < tokens; ++i) request.add_tokens(i);
    const grpc::Status status = engine_.Do(&v1::Worker::Stub::Extend, request);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  // Good when the tensors hold finite numbers and so many tokens are announced.
  v1::AppendRequest GoodAppend(uint64_t sequence, uint32_t tokens) const {
    v1::AppendRequest request;
    request.set_sequence_id(sequence);
    request.set_tokens(tokens);
    Place(0, tokens * kRow, request.mutable_k());
    Place(tokens * kRow, tokens * kRow, request.mutable_v());
    return request;
  }
  // A sequence of so many tokens, ready for steps.
  uint64_t Prefilled(int tokens = 100) {
    const uint64_t sequence = Open();
    Extend(sequence, tokens);
    v1::AppendRequest append = GoodAppend(sequence, tokens);
    for (uint32_t layer = 0; layer < 2; ++layer) {
      append.set_layer(layer);
      const grpc::Status status = engine_.Do(&v1::Worker::Stub::Append, append);
      EXPECT_TRUE(status.ok()) << status.error_message();
    }
    const grpc::Status status = engine_.Do(&v1::Worker::Stub::FinishPrefill, Ref(sequence));
    EXPECT_TRUE(status.ok()) << status.error_message();
    return sequence;
  }
  v1::StepRequest GoodStep(uint64_t sequence) const {
    v1::StepRequest request;
    v1::StepItem* item = request.add_items();
    item->set_sequence_id(sequence);
    Place(0, kQuery, item->mutable_q());
    Place(kQuery, kQuery, item->mutable_out());
    Place(2 * kQuery, kLse, item->mutable_lse());
    return request;
  }
  grpc::Status Step(const v1::StepRequest& request) const {
    return engine_.Do(&v1::Worker::Stub::Step, request);
  }

  static std::string directory_;
  static std::unique_ptr<StoreProcess> store_, sidecar_;
  static std::shared_ptr<grpc::Channel> channel_;
  static std::unique_ptr<worker::RemoteWorker> other_;
  static std::unique_ptr<Feeder> feeder_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  RawEngine engine_;
};

std::string WorkerBadInput::directory_;
std::unique_ptr<StoreProcess> WorkerBadInput::store_, WorkerBadInput::sidecar_;
std::shared_ptr<grpc::Channel> WorkerBadInput::channel_;
std::unique_ptr<worker::RemoteWorker> WorkerBadInput::other_;
std::unique_ptr<Feeder> WorkerBadInput::feeder_;

TEST_F(WorkerBadInput, Engines) {
  const auto refused = [&](const std::function<void(v1::EngineRequest&)>& change,
                           const std::string& says,
                           grpc::StatusCode code = grpc::INVALID_ARGUMENT) {
    v1::EngineRequest request = GoodEngine();
    change(request);
    const RawEngine engine(stub_.get(), request);
    Expect(engine.end(), code, says);
  };
  const auto shape = [&](const std::function<void(v1::Geometry&)>& change,
                         const std::string& says) {
    refused([&](auto& r) { change(*r.mutable_geometry()); }, says);
  };
  refused([](auto& r) { r.clear_geometry(); }, "num_layers is 0, allowed: 1..1024");
  shape([](auto& g) { g.set_num_layers(1025); }, "num_layers is 1025, allowed: 1..1024");
  shape([](auto& g) { g.set_num_layers(~0u); }, "num_layers is 4294967295");
  shape([](auto& g) { g.set_num_kv_heads(0); }, "num_kv_heads is 0, allowed: 1..256");
  shape([](auto& g) { g.set_num_kv_heads(257); }, "num_kv_heads is 257");
  shape([](auto& g) { g.set_num_query_heads(5); }, "allowed: a multiple of num_kv_heads");
  shape([](auto& g) { g.set_num_query_heads(1026); }, "num_query_heads is 1026");
  shape([](auto& g) { g.set_head_dim(33); }, "head_dim is 33, allowed: a multiple of 8 in 32..256");
  shape([](auto& g) { g.set_head_dim(1u << 31); }, "head_dim is 2147483648");
  shape([](auto& g) { g.set_page_tokens(0); }, "page_tokens is 0, allowed: 8, 16 or 32");
  shape([](auto& g) { g.set_page_tokens(64); }, "page_tokens is 64");
  for (const int dtype : {0, 4, 77, 257}) {  // 257: f32, were it cut to 8 bits
    shape([&](auto& g) { g.set_dtype(static_cast<v1::DType>(dtype)); },
          "dtype is 0, allowed: f32, f16 or bf16");
  }
  shape([](auto& g) { g.mutable_rope(); }, "geometry: rope.theta is 0, allowed: above 1");
  refused([](auto& r) { r.set_tensor_bytes(kMax); },
          "tensor_bytes is 18446744073709551615, allowed");
  refused([](auto& r) { r.set_engine_name(std::string(129, 'x')); }, "allowed: at most 128");
  refused([](auto& r) { r.set_digest_kind(static_cast<v1::DigestKind>(99)); },
          "digest_kind is 99, allowed: MINMAX, BOX_MEAN, MEAN");
  refused([](auto& r) { r.set_recall_path("gpu"); },
          "recall_path is 'gpu', allowed: worker, store");
  refused([](auto& r) { r.set_pool_bytes(1); }, "at least 64 pages");
  refused([](auto& r) { r.set_pool_bytes(kMax); }, "available: ", grpc::RESOURCE_EXHAUSTED);
  // One request a stream; none is no error.
  for (int requests : {0, 2}) {
    grpc::ClientContext context;
    auto stream = stub_->Engine(&context);
    for (int i = 0; i < requests; ++i) EXPECT_TRUE(stream->Write(GoodEngine()));
    stream->WritesDone();
    v1::EngineReply reply;
    while (stream->Read(&reply)) {
    }
    const grpc::Status end = stream->Finish();
    if (requests == 2) {
      Expect(end, grpc::INVALID_ARGUMENT, "takes one request");
    } else {
      EXPECT_TRUE(end.ok()) << end.error_message();
    }
  }
}

TEST_F(WorkerBadInput, EnginesThatAreNotAttached) {
  const uint64_t sequence = Prefilled();
  for (const std::string& id : {std::string("short"), std::string(16, 'x'), std::string(16, '\xff'),
                                std::string(100000, 'y')}) {
    const auto refused = [&](auto method, auto request) {
      request.set_engine_id(id);
      Expect(engine_.Do(method, request), grpc::UNAUTHENTICATED, "open an Engine stream");
    };
    v1::ExtendRequest extend;
    extend.set_sequence_id(sequence);
    v1::PageTableRequest table;
    table.add_sequence_ids(sequence);
    refused(&v1::Worker::Stub::OpenSequence, v1::OpenSequenceRequest());
    refused(&v1::Worker::Stub::CloseSequence, Ref(sequence));
    refused(&v1::Worker::Stub::Extend, extend);
    refused(&v1::Worker::Stub::Append, GoodAppend(sequence, 1));
    refused(&v1::Worker::Stub::FinishPrefill, Ref(sequence));
    refused(&v1::Worker::Stub::Step, GoodStep(sequence));
    refused(&v1::Worker::Stub::ExportPageTable, table);
    refused(&v1::Worker::Stub::GetSequence, Ref(sequence));
    refused(&v1::Worker::Stub::GetWorkerStatus, v1::WorkerStatusRequest());
  }
}

TEST_F(WorkerBadInput, Policies) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "unknown policy '', known: full, streaming, quest, arkvale"},
      {"lru", "unknown policy 'lru', known: "},
      {std::string(1 << 20, 'z'), "unknown policy 'zzz"},
      {"arkvale(", "lacks its closing ')'"},
      {"arkvale(budget)", "budget"},
      {"arkvale(budget=0)", "budget"},
      {"arkvale(budget=-0.5)", "budget"},
      {"arkvale(budget=1.5)", "budget"},
      {"arkvale(budget=nan)", "budget"},
      {"arkvale(budget=inf)", "budget"},
      {"arkvale(budget=0p)", "budget"},
      {"arkvale(budget=99999999999p)", "budget"},
      {"arkvale(hot=0.5)", "a multiple of the budget, 1.."},
      {"arkvale(hot=nan)", "a multiple of the budget, 1.."},
      {"arkvale(hot=1e300)", "a multiple of the budget, 1.."},
      {"arkvale(sinks=-1)", "sinks"},
      {"arkvale(window=4294967296)", "window"},
      {"arkvale(min=0)", "min"},
      {"arkvale(merge=average)", "merge"},
      {"arkvale(generated=never)", "pinned, paged"},
      {"arkvale(budget=0.1,budget=0.2)", "given twice"},
      {"arkvale(pages=3)", "unknown parameter 'pages' of policy arkvale, known: budget"},
      {"full(budget=0.1)", "unknown parameter 'budget' of policy full, known: none"},
  };
  for (const auto& [policy, says] : cases) {
    v1::OpenSequenceRequest request;
    request.set_policy(policy);
    SCOPED_TRACE(policy.substr(0, 40));
    Expect(engine_.Do(&v1::Worker::Stub::OpenSequence, request), grpc::INVALID_ARGUMENT, says);
  }
}

TEST_F(WorkerBadInput, Contexts) {
  const auto refused = [&](const std::string& id, const std::string& resume, grpc::StatusCode code,
                           const std::string& says) {
    v1::OpenSequenceRequest request;
    request.set_policy("full");
    request.set_context_id(id);
    request.set_resume_context_id(resume);
    Expect(engine_.Do(&v1::Worker::Stub::OpenSequence, request), code, says);
  };
  refused(std::string(100000, 'c'), "", grpc::INVALID_ARGUMENT, "allowed: 1..128 of A-Z");
  refused("", std::string(100000, 'c'), grpc::INVALID_ARGUMENT, "allowed: 1..128 of A-Z");
  refused("", "nowhere", grpc::NOT_FOUND, "nowhere");
  // A context of another geometry.
  v1::EngineRequest wide = GoodEngine();
  wide.mutable_geometry()->set_head_dim(64);
  const RawEngine other(stub_.get(), wide);
  v1::OpenSequenceRequest open;
  open.set_policy("full");
  open.set_context_id("wide");
  ASSERT_TRUE(other.Do(&v1::Worker::Stub::OpenSequence, open).ok());
  refused("", "wide", grpc::FAILED_PRECONDITION, "d64");
  refused("wide", "", grpc::ALREADY_EXISTS, "wide");
}

TEST_F(WorkerBadInput, Sequences) {
  const RawEngine other(stub_.get(), GoodEngine());
  const uint64_t mine = Prefilled();
  ASSERT_TRUE(engine_.Do(&v1::Worker::Stub::GetSequence, Ref(mine)).ok());
  const auto refused = [&](const RawEngine& engine, uint64_t id) {
    const std::string says = absl::StrCat("no sequence ", id, " is open");
    v1::ExtendRequest extend;
    extend.set_sequence_id(id);
    v1::PageTableRequest table;
    table.add_sequence_ids(id);
    Expect(engine.Do(&v1::Worker::Stub::CloseSequence, Ref(id)), grpc::NOT_FOUND, says);
    Expect(engine.Do(&v1::Worker::Stub::Extend, extend), grpc::NOT_FOUND, says);
    Expect(engine.Do(&v1::Worker::Stub::Append, GoodAppend(id, 1)), grpc::NOT_FOUND, says);
    Expect(engine.Do(&v1::Worker::Stub::FinishPrefill, Ref(id)), grpc::NOT_FOUND, says);
    Expect(engine.Do(&v1::Worker::Stub::Step, GoodStep(id)), grpc::NOT_FOUND, says);
    Expect(engine.Do(&v1::Worker::Stub::ExportPageTable, table), grpc::NOT_FOUND, says);
    Expect(engine.Do(&v1::Worker::Stub::GetSequence, Ref(id)), grpc::NOT_FOUND, says);
  };
  for (uint64_t id : {uint64_t{0}, uint64_t{999}, kMax}) refused(engine_, id);
  refused(other, mine);  // another engine's
  ASSERT_TRUE(engine_.Do(&v1::Worker::Stub::CloseSequence, Ref(mine)).ok());
  refused(engine_, mine);
}

TEST_F(WorkerBadInput, CallsOutOfOrder) {
  const uint64_t sequence = Open();
  Expect(engine_.Do(&v1::Worker::Stub::FinishPrefill, Ref(sequence)), grpc::FAILED_PRECONDITION,
         "call Extend first");
  Expect(Step(GoodStep(sequence)), grpc::FAILED_PRECONDITION, "call FinishPrefill before");
  Extend(sequence, 9);
  Expect(engine_.Do(&v1::Worker::Stub::FinishPrefill, Ref(sequence)), grpc::FAILED_PRECONDITION,
         "layer 0 has 0 of 9 announced tokens");
  const uint64_t ready = Prefilled();
  // An answer that was lost may be asked for again.
  EXPECT_TRUE(engine_.Do(&v1::Worker::Stub::FinishPrefill, Ref(ready)).ok());
  Extend(ready, 2);
  Expect(engine_.Do(&v1::Worker::Stub::FinishPrefill, Ref(ready)), grpc::FAILED_PRECONDITION,
         "was called before");
  Expect(Step(GoodStep(ready)), grpc::FAILED_PRECONDITION, "100 of 102 announced tokens");
  v1::ExtendRequest huge;
  huge.set_sequence_id(ready);
  huge.mutable_tokens()->Resize(65 << 20, 1);
  Expect(engine_.Do(&v1::Worker::Stub::Extend, huge), grpc::RESOURCE_EXHAUSTED, "");
}

TEST_F(WorkerBadInput, Appends) {
  const uint64_t sequence = Open();
  Extend(sequence, 20);
  const auto refused = [&](const std::function<void(v1::AppendRequest&)>& change,
                           const std::string& says,
                           grpc::StatusCode code = grpc::INVALID_ARGUMENT) {
    v1::AppendRequest request = GoodAppend(sequence, 10);
    change(request);
    Expect(engine_.Do(&v1::Worker::Stub::Append, request), code, says);
  };
  refused([](auto& r) { r.set_layer(2); }, "layer is 2, allowed: 0..1");
  refused([](auto& r) { r.set_layer(~0u); }, "layer is 4294967295, allowed: 0..1");
  refused([](auto& r) { r.set_tokens(9); }, "k has 2560 bytes, expected 2304");
  refused([](auto& r) { r.set_tokens(0); }, "k has 2560 bytes, expected 0");
  refused([](auto& r) { r.set_tokens(~0u); }, "k has 2560 bytes, expected 1099511627520");
  refused([](auto& r) { r.clear_k(); }, "k has 0 bytes, expected 2560");
  refused([](auto& r) { r.clear_v(); }, "v has 0 bytes, expected 2560");
  refused([](auto& r) { r.mutable_v()->set_bytes(kMax); }, "v has 18446744073709551615 bytes");
  for (const uint64_t offset : {kMax, kMax - 2559, kTensorBytes, kTensorBytes - 2556, uint64_t{1},
                                uint64_t{2}, kTensorBytes + 4096}) {
    refused(
        [&](auto& r) { r.mutable_k()->set_offset(offset); },
        absl::StrCat("k at offset ", offset, "+2560, allowed: multiples of 4 inside the 1048576"));
    refused([&](auto& r) { r.mutable_v()->set_offset(offset); }, "v at offset");
  }
  refused([&](auto& r) { r = GoodAppend(sequence, 21); },
          "only 20 of 20 announced tokens are still without keys: call Extend first",
          grpc::FAILED_PRECONDITION);
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    float* key = engine_.tensor(3 * kRow) + 40;
    *key = bad;
    refused([](auto&) {}, "the key of token 3, layer 0, KV head 1, channel 8 is NaN or infinite");
    *key = 0;
    float* value = engine_.tensor(10 * kRow) + 5;
    *value = bad;
    refused([](auto&) {}, "the value of token 0, layer 0, KV head 0, channel 5 is NaN or infinite");
    *value = 0;
  }
  // Nothing of all that was taken.
  EXPECT_TRUE(engine_.Do(&v1::Worker::Stub::Append, GoodAppend(sequence, 20)).ok());
  EXPECT_TRUE(engine_.Do(&v1::Worker::Stub::Append, GoodAppend(sequence, 0)).ok());
}

TEST_F(WorkerBadInput, Steps) {
  const uint64_t sequence = Prefilled();
  ASSERT_TRUE(Step(GoodStep(sequence)).ok());
  const auto refused = [&](const std::function<void(v1::StepRequest&, v1::StepItem&)>& change,
                           const std::string& says,
                           grpc::StatusCode code = grpc::INVALID_ARGUMENT) {
    v1::StepRequest request = GoodStep(sequence);
    change(request, *request.mutable_items(0));
    Expect(Step(request), code, says);
  };
  refused([](auto& r, auto&) { r.set_layer(2); }, "layer is 2, allowed: 0..1");
  refused([](auto& r, auto&) { r.set_layer(~0u); }, "layer is 4294967295");
  refused([](auto&, auto& i) { i.clear_q(); }, "q has 0 bytes, expected 512");
  refused([](auto&, auto& i) { i.mutable_q()->set_bytes(kMax); }, "q has 18446744073709551615");
  refused([](auto&, auto& i) { i.clear_out(); }, "out has 0 bytes, expected 512");
  refused([](auto&, auto& i) { i.mutable_out()->set_bytes(513); }, "out has 513 bytes");
  refused([](auto&, auto& i) { i.mutable_lse()->set_bytes(0); }, "lse has 0 bytes, expected 16");
  for (const uint64_t offset : {kMax, kMax - 511, kTensorBytes, kTensorBytes - 8, uint64_t{2}}) {
    refused([&](auto&, auto& i) { i.mutable_q()->set_offset(offset); }, "q at offset");
    refused([&](auto&, auto& i) { i.mutable_out()->set_offset(offset); }, "out at offset");
    refused([&](auto&, auto& i) { i.mutable_lse()->set_offset(offset); }, "lse at offset");
    refused([&](auto&, auto& i) { Place(offset, kRow, i.mutable_k()); }, "k at offset");
  }
  refused([](auto&, auto& i) { Place(0, kRow, i.mutable_k()); }, "v has 0 bytes, expected 256");
  refused([](auto&, auto& i) { Place(0, kRow, i.mutable_v()); }, "k has 0 bytes, expected 256");
  // A token that was not announced.
  refused(
      [](auto&, auto& i) {
        Place(0, kRow, i.mutable_k());
        Place(0, kRow, i.mutable_v());
      },
      "call Extend first", grpc::FAILED_PRECONDITION);
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    *engine_.tensor(70 * sizeof(float)) = bad;
    refused([](auto&, auto&) {}, "query head 2, channel 6 is NaN or infinite");
    *engine_.tensor(70 * sizeof(float)) = 0;
  }
  // A batch that names a sequence twice; one that is larger than a message may be.
  refused([](auto& r, auto& i) { r.add_items()->CopyFrom(i); },
          "is in the batch twice, allowed: each sequence once");
  v1::StepRequest oversize = GoodStep(sequence);
  for (int i = 0; i < 3 << 20; ++i) oversize.add_items()->CopyFrom(oversize.items(0));
  Expect(Step(oversize), grpc::RESOURCE_EXHAUSTED, "");
  ASSERT_TRUE(Step(v1::StepRequest()).ok());  // of nothing
  ASSERT_TRUE(Step(GoodStep(sequence)).ok());
}

TEST_F(WorkerBadInput, PageTables) {
  const uint64_t sequence = Prefilled();
  v1::PageTableRequest request;
  request.add_sequence_ids(sequence);
  Expect(engine_.Do(&v1::Worker::Stub::ExportPageTable, request), grpc::FAILED_PRECONDITION,
         "no Attend has succeeded in layer 0");
  ASSERT_TRUE(Step(GoodStep(sequence)).ok());
  ASSERT_TRUE(engine_.Do(&v1::Worker::Stub::ExportPageTable, request).ok());
  for (uint32_t layer : {2u, ~0u}) {
    request.set_layer(layer);
    Expect(engine_.Do(&v1::Worker::Stub::ExportPageTable, request), grpc::INVALID_ARGUMENT,
           absl::StrCat("layer is ", layer, ", allowed: 0..1"));
  }
  // A small request must not make a reply without end.
  request.set_layer(0);
  for (int i = 0; i < 1000000; ++i) request.add_sequence_ids(sequence);
  Expect(engine_.Do(&v1::Worker::Stub::ExportPageTable, request), grpc::INVALID_ARGUMENT,
         "is in the batch twice, allowed: each sequence once");
}

// Messages cut short, and bytes that are none.
TEST_F(WorkerBadInput, BytesThatAreNoMessage) {
  grpc::GenericStub generic(channel_);
  std::string cut = GoodStep(Prefilled()).SerializeAsString();
  cut.pop_back();
  for (const char* method : {"OpenSequence", "CloseSequence", "Extend", "Append", "FinishPrefill",
                             "Step", "ExportPageTable", "GetSequence", "GetWorkerStatus"}) {
    for (const std::string& bytes :
         {cut, std::string(64, '\xff'), std::string("\x0a\xff\xff\x7f")}) {
      const grpc::Slice slice(bytes);
      const grpc::ByteBuffer request(&slice, 1);
      grpc::ByteBuffer reply;
      grpc::ClientContext context;
      std::promise<grpc::Status> done;
      generic.UnaryCall(&context, absl::StrCat("/varve.v1.Worker/", method), {}, &request, &reply,
                        [&](grpc::Status status) { done.set_value(std::move(status)); });
      EXPECT_FALSE(done.get_future().get().ok()) << method;
    }
  }
}

}  // namespace
}  // namespace varve::testing
