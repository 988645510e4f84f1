// What a store that is stopped, or drains, costs a sidecar and its engines.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/call_deadline.h"
#include "client/client.h"
#include "client/convert.h"
#include "gpu_worker/remote_worker.h"
#include "gpu_worker/worker.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/support/client_interceptor.h"
#include "gtest/gtest.h"
#include "tests/integration/worker/raw_engine.h"
#include "tests/support/assert_ok.h"
#include "tests/support/store_process.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

namespace v1 = varve::v1;

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};
constexpr const char* kPolicy = "arkvale(budget=4p,hot=1)";

bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return true;
}

// Stops the store just before a call of this method is sent; once.
class StopBefore final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  StopBefore(const StoreProcess* store, std::string method)
      : store_(store), method_(std::move(method)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    if (info->method() == method_) {
      store_->Signal(SIGSTOP);
      siginfo_t stopped;
      waitid(P_PID, static_cast<id_t>(store_->pid()), &stopped, WSTOPPED);  // with all its threads
      method_.clear();
    }
    return new Idle();
  }

 private:
  struct Idle : grpc::experimental::Interceptor {
    void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
      methods->Proceed();
    }
  };
  const StoreProcess* const store_;
  std::string method_;
};

class WorkerStoppedStore : public ::testing::Test {
 protected:
  void StartSidecar(const std::vector<std::string>& flags) {
    auto store = StoreProcess::Start();
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
    const std::vector<std::string> own = {
        absl::StrCat("--listen=unix:/tmp/varve-test-", getpid(), "-",
                     absl::ToUnixNanos(absl::Now()), ".sock"),
        "--http_listen=127.0.0.1:0",
        "--store=" + store_->grpc_address(),
        "--transport.lanes=shm",
        "--pool_bytes=16MiB",
        "--log_level=error"};
    const std::vector<std::string> all = varve::testing::FlagsOver(own, flags);
    auto sidecar = StoreProcess::StartProgram("varve-worker", all);
    ASSERT_TRUE(sidecar.ok()) << sidecar.status();
    sidecar_ = std::move(*sidecar);
  }
  worker::RemoteWorkerOptions RemoteOptions() const {
    worker::RemoteWorkerOptions options;
    options.address = sidecar_->grpc_address();
    options.geometry = kShape;
    options.tensor_bytes = 1 << 20;
    options.pool_bytes = 4 << 20;
    return options;
  }

  std::unique_ptr<StoreProcess> store_, sidecar_;
};

// A step that waits for its store ends at step_deadline, not at the deadlines of what it asks; when
// the store goes on, so do the steps. (Transfers have 10 s here, and their calls more.)
TEST_F(WorkerStoppedStore, AStoppedStoreCostsAStepItsDeadline) {
  ASSERT_NO_FATAL_FAILURE(StartSidecar({"--step_deadline_ms=500ms"}));
  for (const auto path : {worker::RecallPath::kWorker, worker::RecallPath::kStore}) {
    worker::RemoteWorkerOptions options = RemoteOptions();
    options.recall_path = path;
    auto remote = worker::RemoteWorker::Attach(options);
    ASSERT_TRUE(remote.ok()) << remote.status();
    const RandomText text(kShape, 9, 400);
    Feeder feeder(remote->get(), &text);
    ASSERT_OK(feeder.Prefill(kPolicy, 300));
    store_->Signal(SIGSTOP);
    absl::Status status;
    absl::Duration took;
    uint32_t step = 0;
    for (; status.ok() && step < 30; ++step) {
      const absl::Time begin = absl::Now();
      status = feeder.Attend(step);
      took = absl::Now() - begin;
    }
    store_->Signal(SIGCONT);
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded) << status;
    EXPECT_LT(took, absl::Seconds(8));
    EXPECT_TRUE(Eventually([&] { return feeder.Attend(step).ok(); }));
  }
}

// However many sequences there are, and whatever the store does.
TEST_F(WorkerStoppedStore, DrainingHasOneBudgetForAllSequences) {
  ASSERT_NO_FATAL_FAILURE(StartSidecar(
      {"--step_deadline_ms=2s", "--drain_ms=2s", "--transport.transfer_deadline_ms=1s"}));
  auto remote = worker::RemoteWorker::Attach(RemoteOptions());
  ASSERT_TRUE(remote.ok()) << remote.status();
  const RandomText text(kShape, 10, 400);
  std::vector<Feeder> feeders(12, Feeder(remote->get(), &text));
  for (size_t i = 0; i < feeders.size(); ++i) {
    ASSERT_OK(feeders[i].Open("full", absl::StrCat("kept", i)));
    ASSERT_OK(feeders[i].Feed(16));
  }
  store_->Signal(SIGSTOP);
  for (Feeder& feeder : feeders) ASSERT_OK(feeder.Feed(16));
  sidecar_->Signal(SIGTERM);
  const auto exit = sidecar_->Wait(absl::Seconds(22));  // 2 s a sequence would be more
  store_->Signal(SIGCONT);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(*exit, 0);
}

// Nor does a call under way add to it, but for its own deadline.
TEST_F(WorkerStoppedStore, DrainingEndsWithTheStepUnderWay) {
  ASSERT_NO_FATAL_FAILURE(StartSidecar(
      {"--step_deadline_ms=3s", "--drain_ms=1s", "--transport.transfer_deadline_ms=1s"}));
  auto remote = worker::RemoteWorker::Attach(RemoteOptions());
  ASSERT_TRUE(remote.ok()) << remote.status();
  const RandomText text(kShape, 12, 400);
  Feeder feeder(remote->get(), &text), kept(remote->get(), &text);
  ASSERT_OK(kept.Open("full", "kept"));
  ASSERT_OK(feeder.Prefill(kPolicy, 300));
  store_->Signal(SIGSTOP);
  ASSERT_OK(kept.Feed(16));  // more to wait for
  std::thread stepping([&] {
    for (uint32_t step = 0; feeder.Attend(step).ok(); ++step) continue;
  });
  absl::SleepFor(absl::Seconds(1));
  sidecar_->Signal(SIGTERM);
  const auto exit = sidecar_->Wait(absl::Seconds(11));  // 10 s of the client's alone were more
  stepping.join();
  store_->Signal(SIGCONT);
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(*exit, 0);
}

// Its memory is in use until its last call is over.
TEST_F(WorkerStoppedStore, AShareOfThePoolIsFreeWhenItsMemoryIs) {
  ASSERT_NO_FATAL_FAILURE(StartSidecar({}));
  const auto stub = v1::Worker::NewStub(
      grpc::CreateChannel(sidecar_->grpc_address(), grpc::InsecureChannelCredentials()));
  v1::EngineRequest request;
  *request.mutable_geometry() = client::ToProto(kShape);
  auto engine = std::make_unique<RawEngine>(stub.get(), request);  // takes the whole pool
  ASSERT_FALSE(engine->id().empty()) << engine->end().error_message();
  const std::string pool = engine->pool_path();
  store_->Signal(SIGSTOP);
  std::thread opening([&stub, id = engine->id()] {
    v1::OpenSequenceRequest open;
    open.set_engine_id(id);
    open.set_policy("full");
    grpc::ClientContext context;
    v1::SequenceInfo info;
    stub->OpenSequence(&context, open, &info).ok();
  });
  EXPECT_TRUE(Eventually([&] {
    return MetricValue(sidecar_->HttpGet("/metrics"),
                       "grpc_server_started_total{grpc_method=\"OpenSequence\","
                       "grpc_service=\"varve.v1.Worker\",grpc_type=\"unary\"}") == 1;
  }));
  std::thread leaving([&] { engine.reset(); });

  request.set_engine_name(std::string(129, 'x'));  // refused, once there is room
  const absl::Time go_on = absl::Now() + absl::Seconds(1);
  EXPECT_TRUE(Eventually([&] {
    if (absl::Now() > go_on) store_->Signal(SIGCONT);
    const RawEngine next(stub.get(), request);
    return next.end().error_code() != grpc::RESOURCE_EXHAUSTED;
  }));
  EXPECT_FALSE(std::filesystem::exists(pool));
  store_->Signal(SIGCONT);
  opening.join();
  leaving.join();
}

// Resuming reads digests on a stream: when the store stops there, Open ends with the client's
// timeouts, and earlier where the caller wants it so.
TEST(WorkerStoppedStoreResume, OpeningEndsInTime) {
  auto store = StoreProcess::Start();
  ASSERT_TRUE(store.ok()) << store.status();
  const RandomText text(kShape, 11, 100);
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.pool_bytes = 4 << 20;
  options.step_deadline = absl::Seconds(1);
  client::ClientOptions client_options;
  client_options.call_timeout = absl::Seconds(1);
  for (const absl::Duration patience : {absl::Hours(1), absl::Milliseconds(500)}) {
    SCOPED_TRACE(patience);
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> stop;
    stop.push_back(std::make_unique<StopBefore>(store->get(), "/varve.v1.Store/ReadDigests"));
    auto client = client::Client::Connect(
        grpc::experimental::CreateCustomChannelWithInterceptors(
            (*store)->grpc_address(), grpc::InsecureChannelCredentials(), {}, std::move(stop)),
        nullptr, client_options);
    ASSERT_TRUE(client.ok()) << client.status();
    auto worker = worker::Worker::Create(options, client->get());
    ASSERT_TRUE(worker.ok()) << worker.status();
    Feeder feeder(worker->get(), &text);
    const std::string context = absl::StrCat("kept", absl::ToInt64Milliseconds(patience));
    ASSERT_OK(feeder.Open("full", context));
    ASSERT_OK(feeder.Feed(80));
    ASSERT_OK((*worker)->Close(feeder.id()));

    const absl::Time begin = absl::Now();
    absl::Status opened;
    {
      const client::CallDeadline deadline(begin + patience);
      opened = feeder.Open("full", "", context);
    }
    const absl::Duration took = absl::Now() - begin;
    (*store)->Signal(SIGCONT);
    EXPECT_EQ(opened.code(), absl::StatusCode::kDeadlineExceeded) << opened;
    EXPECT_LT(took, absl::Seconds(20));
    EXPECT_TRUE(Eventually([&] { return feeder.Open("full", "", context).ok(); }));
  }
}

std::vector<std::string> SidecarFlags(const StoreProcess& store, const std::string& lane) {
  return {absl::StrCat("--listen=unix:/tmp/varve-test-", getpid(), "-starting.sock"),
          "--http_listen=127.0.0.1:0", "--store=" + store.grpc_address(),
          "--transport.lanes=" + lane, "--pool_bytes=16MiB"};
}

absl::Status Drain(const StoreProcess& store) {
  client::ClientOptions options;
  options.address = store.grpc_address();
  options.lanes.clear();
  options.lazy_session = true;
  const auto client = client::Client::Connect(options);
  return client.ok() ? (*client)->Drain() : client.status();
}

// As in a rolling restart: the one that drains will be another one soon.
TEST(WorkerDrainingStore, IsWaitedForAndIsNotReady) {
  auto store = StoreProcess::Start();
  ASSERT_TRUE(store.ok()) << store.status();
  const std::string address = (*store)->grpc_address();
  ASSERT_OK(Drain(**store));
  auto sidecar = StoreProcess::StartProgram("varve-worker", SidecarFlags(**store, "shm"), false);
  ASSERT_TRUE(sidecar.ok()) << sidecar.status();
  EXPECT_FALSE((*sidecar)->Wait(absl::Seconds(3)).ok());  // still there
  store->reset();
  store = StoreProcess::Start({"--listen=" + address});
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_OK((*sidecar)->AwaitReady());
  std::string body;
  EXPECT_TRUE(
      Eventually([&] { return HttpGet((*sidecar)->http_address(), "/readyz", &body) == 200; }));
  ASSERT_OK(Drain(**store));
  EXPECT_TRUE(
      Eventually([&] { return HttpGet((*sidecar)->http_address(), "/readyz", &body) == 503; }));
  EXPECT_EQ(body, "store: it is draining\n");
}

// It has been waiting for a store without room, and no probe has seen the drain.
TEST(WorkerDrainingStore, IsWaitedForOnceMoreWhenItBeginsToDrain) {
  const auto store = StoreProcess::Start({"--sessions.max_sessions=1"});
  ASSERT_TRUE(store.ok()) << store.status();
  client::ClientOptions options;
  options.address = (*store)->grpc_address();
  options.lanes.clear();
  const auto only = client::Client::Connect(options);
  ASSERT_TRUE(only.ok()) << only.status();
  const auto sidecar =
      StoreProcess::StartProgram("varve-worker", SidecarFlags(**store, "shm"), false);
  ASSERT_TRUE(sidecar.ok()) << sidecar.status();
  EXPECT_FALSE((*sidecar)->Wait(absl::Milliseconds(1300)).ok());  // its probes are 1 s apart
  ASSERT_OK(Drain(**store));
  EXPECT_FALSE((*sidecar)->Wait(absl::Seconds(2)).ok());
}

TEST(WorkerDrainingStore, WithoutALaneInCommonThereIsNothingToWaitFor) {
  const auto store = StoreProcess::Start({"--transport.lanes=shm"});
  ASSERT_TRUE(store.ok()) << store.status();
  const auto sidecar =
      StoreProcess::StartProgram("varve-worker", SidecarFlags(**store, "tcp"), false);
  ASSERT_TRUE(sidecar.ok()) << sidecar.status();
  const auto exit = (*sidecar)->Wait(absl::Seconds(30));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(*exit, 1);
}

}  // namespace
}  // namespace varve::testing
