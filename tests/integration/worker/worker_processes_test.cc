// Store, sidecar and engine as processes of their own, and what is left when one of them dies.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "gpu_worker/remote_worker.h"
#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/store_process.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

using ::testing::HasSubstr;

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};
constexpr const char* kPolicy = "arkvale(budget=4p,hot=1)";

bool Eventually(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

size_t FilesIn(const std::string& directory) {
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory)) ++files;
  return files;
}

class WorkerProcesses : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    directory_ = absl::StrCat("/tmp/varve-test-", getpid(), "-", absl::ToUnixNanos(absl::Now()));
    std::filesystem::create_directory(directory_);
    std::filesystem::create_directory(directory_ + "/shm");
    StartStore({});
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void StartStore(std::vector<std::string> flags) {
    auto store = StoreProcess::Start(flags);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
  }
  std::unique_ptr<StoreProcess> StartSidecar(std::vector<std::string> flags = {},
                                             bool wait_ready = true) {
    const std::vector<std::string> own = {"--listen=unix:" + directory_ + "/worker.sock",
                                          "--http_listen=127.0.0.1:0",
                                          "--store=" + store_->grpc_address(),
                                          "--transport.lanes=" + GetParam(),
                                          "--shared_memory_dir=" + directory_ + "/shm",
                                          "--pool_bytes=16MiB",
                                          "--log_level=error"};
    const std::vector<std::string> all = varve::testing::FlagsOver(own, flags);
    auto sidecar = StoreProcess::StartProgram("varve-worker", all, wait_ready);
    EXPECT_TRUE(sidecar.ok()) << sidecar.status();
    return sidecar.ok() ? std::move(*sidecar) : nullptr;
  }
  worker::RemoteWorkerOptions RemoteOptions() const {
    worker::RemoteWorkerOptions options;
    options.address = "unix:" + directory_ + "/worker.sock";
    options.geometry = kShape;
    options.tensor_bytes = 1 << 20;
    options.pool_bytes = 4 << 20;
    return options;
  }
  absl::StatusOr<std::unique_ptr<client::Client>> Connect(const std::string& address) const {
    client::ClientOptions options;
    options.address = address;
    options.lanes = {GetParam()};
    options.transfer_deadline = absl::Seconds(3);
    options.connect_timeout = absl::Seconds(2);
    return client::Client::Connect(options);
  }
  uint64_t StoreSessions() const {
    return static_cast<uint64_t>(MetricValue(store_->HttpGet("/metrics"), "varve_sessions"));
  }
  uint64_t StoreContexts() const {
    return static_cast<uint64_t>(MetricValue(store_->HttpGet("/metrics"), "varve_contexts"));
  }

  std::string directory_;
  std::unique_ptr<StoreProcess> store_;
};

// A child that attaches, prefills, decodes a little, says so, and then waits to be killed.
pid_t ForkEngine(const worker::RemoteWorkerOptions& options, int ready) {
  const pid_t child = fork();
  if (child != 0) return child;
  // The test's own program again, so that the child has no threads or channels of its parent.
  execl("/proc/self/exe", "engine", "--engine", options.address.c_str(),
        absl::StrCat(ready).c_str(), nullptr);
  _exit(127);
}

TEST_P(WorkerProcesses, AnEngineThatIsKilledLosesItsSequencesAndNothingElse) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  auto survivor = worker::RemoteWorker::Attach(RemoteOptions());
  ASSERT_TRUE(survivor.ok()) << survivor.status();
  const RandomText text(kShape, 1, 400);
  Feeder feeder(survivor->get(), &text);
  ASSERT_OK(feeder.Prefill(kPolicy, 300));
  const uint64_t contexts = StoreContexts();
  const size_t files = FilesIn(directory_ + "/shm");

  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t engine = ForkEngine(RemoteOptions(), pipe_ends[1]);
  close(pipe_ends[1]);
  char ready = 0;
  ASSERT_EQ(read(pipe_ends[0], &ready, 1), 1) << "the engine did not get ready";
  close(pipe_ends[0]);
  EXPECT_EQ(StoreContexts(), contexts + 1);
  EXPECT_EQ(FilesIn(directory_ + "/shm"), files + 2);
  kill(engine, SIGKILL);
  waitpid(engine, nullptr, 0);

  EXPECT_TRUE(Eventually([&] { return StoreContexts() == contexts; }));
  EXPECT_TRUE(Eventually([&] { return FilesIn(directory_ + "/shm") == files; }));
  EXPECT_TRUE(Eventually(
      [&] { return MetricValue(sidecar->HttpGet("/metrics"), "varve_worker_sequences") == 1; }));
  ASSERT_OK(feeder.Step(0));
  ASSERT_OK((*survivor)->Close(feeder.id()));
}

// All engines of a sidecar are one session of the store, which has one hold on a context.
TEST_P(WorkerProcesses, AnEngineDoesNotGiveUpTheContextOfAnother) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  const RandomText text(kShape, 1, 400);
  auto owner = worker::RemoteWorker::Attach(RemoteOptions());
  ASSERT_TRUE(owner.ok()) << owner.status();
  Feeder feeder(owner->get(), &text);
  ASSERT_OK(feeder.Open(kPolicy, "conversation"));
  ASSERT_OK(feeder.Feed(300));
  ASSERT_OK(feeder.Finish());
  const auto pinned = [&] {
    return MetricValue(store_->HttpGet("/metrics"), "varve_tier_pinned_bytes{tier=\"host\"}");
  };
  ASSERT_TRUE(Eventually([&] { return pinned() > 0; }));
  auto other = worker::RemoteWorker::Attach(RemoteOptions());
  ASSERT_TRUE(other.ok()) << other.status();
  Feeder second(other->get(), &text);
  EXPECT_EQ(second.Open(kPolicy, "conversation", "conversation").code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_GT(pinned(), 0);
  for (uint32_t step = 0; step < 10; ++step) ASSERT_OK(feeder.Step(step));
  ASSERT_OK((*owner)->Close(feeder.id()));
  ASSERT_OK(second.Open(kPolicy, "conversation", "conversation"));
}

TEST_P(WorkerProcesses, ASidecarThatIsKilledFailsItsEngineAndLeavesTheStoreClean) {
  auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  const uint64_t sessions = StoreSessions();
  const RandomText text(kShape, 2, 400);
  {
    auto remote = worker::RemoteWorker::Attach(RemoteOptions());
    ASSERT_TRUE(remote.ok()) << remote.status();
    Feeder feeder(remote->get(), &text);
    ASSERT_OK(feeder.Prefill(kPolicy, 300));
    ASSERT_OK(feeder.Step(0));
    sidecar->Signal(SIGKILL);
    ASSERT_TRUE(sidecar->Wait(absl::Seconds(30)).ok());
    EXPECT_EQ(feeder.Step(1).code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_TRUE(Eventually([&] { return StoreSessions() == sessions - 1; }));
  EXPECT_TRUE(Eventually([&] {
    return MetricValue(store_->HttpGet("/metrics"), "varve_tier_pinned_bytes{tier=\"host\"}") == 0;
  }));
  // A new sidecar on the same socket serves again; what was stored is still there.
  EXPECT_EQ(FilesIn(directory_ + "/shm"), 2u);
  sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  EXPECT_EQ(FilesIn(directory_ + "/shm"), 0u);  // the dead one's are removed
  auto remote = worker::RemoteWorker::Attach(RemoteOptions());
  ASSERT_TRUE(remote.ok()) << remote.status();
  Feeder again(remote->get(), &text);
  ASSERT_OK(again.Prefill(kPolicy, 300));
  ASSERT_OK(again.Step(0));
  EXPECT_GT(MetricValue(sidecar->HttpGet("/metrics"),
                        "varve_worker_saved_objects_total{result=\"exists\"}"),
            0);
}

// A page that the dead store had fails the step by name; after its return new sequences work.
TEST_P(WorkerProcesses, AStoreThatDiesFailsTheStepAndLaterSequencesWork) {
  const std::string address = store_->grpc_address();
  auto client = Connect(address);
  ASSERT_TRUE(client.ok()) << client.status();
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.pool_bytes = 4 << 20;
  options.step_deadline = absl::Seconds(3);
  auto worker = worker::Worker::Create(options, client->get());
  ASSERT_TRUE(worker.ok()) << worker.status();
  const RandomText text(kShape, 3, 400);
  Feeder before((*worker).get(), &text), full((*worker).get(), &text);
  ASSERT_OK(before.Prefill(kPolicy, 300));
  ASSERT_OK(full.Prefill("full", 300));
  ASSERT_OK(before.Step(0));
  store_->Signal(SIGKILL);
  ASSERT_TRUE(store_->Wait(absl::Seconds(30)).ok());
  absl::Status status;
  for (uint32_t step = 1; status.ok() && step < 30; ++step) status = before.Attend(step);
  EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("page "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("KV head"));
  ASSERT_OK(full.Step(0));  // needs no store

  StartStore({"--listen=" + address});
  Feeder after((*worker).get(), &text);
  EXPECT_TRUE(Eventually([&] { return after.Prefill(kPolicy, 300).ok(); }));
  for (uint32_t step = 0; step < 10; ++step) {
    ASSERT_OK(after.Step(step));
    const auto pages = NaivePages(text, *worker::ParsePolicy(kPolicy), page::DigestKind::kMinMax, 0,
                                  text.Query(0, step), 300, after.tokens());
    const NaiveResult truth = NaiveAttention(text, 0, text.Query(0, step), after.tokens(), pages);
    EXPECT_LE(RelativeError(after.outputs()[0], truth.out), 2e-5);
  }
}

TEST_P(WorkerProcesses, TheSidecarWaitsForItsStore) {
  const std::string address = store_->grpc_address();
  store_->Signal(SIGKILL);
  ASSERT_TRUE(store_->Wait(absl::Seconds(30)).ok());
  const auto sidecar = StartSidecar({"--store=" + address}, /*wait_ready=*/false);
  ASSERT_NE(sidecar, nullptr);
  EXPECT_EQ(sidecar->AwaitReady(absl::Milliseconds(100)).code(),
            absl::StatusCode::kDeadlineExceeded);
  StartStore({"--listen=" + address});
  ASSERT_OK(sidecar->AwaitReady());
  std::string body;
  EXPECT_TRUE(Eventually([&] { return HttpGet(sidecar->http_address(), "/readyz", &body) == 200; }))
      << body;
}

// What is served while the store is away, and what a bad address is: known before the store is.
TEST_P(WorkerProcesses, PagesAnswerWhileTheSidecarWaitsForItsStore) {
  const std::string address = store_->grpc_address();
  store_->Signal(SIGKILL);
  ASSERT_TRUE(store_->Wait(absl::Seconds(30)).ok());
  const std::string http = absl::StrCat("127.0.0.1:", 20000 + getpid() % 10000);
  const auto sidecar =
      StartSidecar({"--store=" + address, "--http_listen=" + http}, /*wait_ready=*/false);
  ASSERT_NE(sidecar, nullptr);
  std::string body;
  ASSERT_TRUE(Eventually([&] { return HttpGet(http, "/healthz", &body) == 200; }));
  EXPECT_EQ(HttpGet(http, "/readyz", &body), 503);
  EXPECT_THAT(body, HasSubstr("store: "));
  EXPECT_EQ(HttpGet(http, "/", &body), 200);
  EXPECT_THAT(body, HasSubstr("not connected"));
  EXPECT_EQ(HttpGet(http, "/metrics", &body), 200);
  EXPECT_EQ(MetricValue(body, "varve_worker_store_up"), 0);
  EXPECT_THAT(worker::RemoteWorker::Attach(RemoteOptions()).status().ToString(),
              HasSubstr("waits for its store"));
  // Another worker with the same addresses says so at once.
  const auto second =
      StartSidecar({"--store=" + address, "--listen=127.0.0.1:0", "--http_listen=" + http},
                   /*wait_ready=*/false);
  ASSERT_NE(second, nullptr);
  const auto exit = second->Wait(absl::Seconds(30));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_NE(*exit, 0);
  StartStore({"--listen=" + address});
  ASSERT_OK(sidecar->AwaitReady());
  EXPECT_TRUE(Eventually([&] { return HttpGet(http, "/readyz", &body) == 200; })) << body;
}

// A store that is stopped answers nothing; the worker's pages must not wait for it.
TEST_P(WorkerProcesses, PagesAnswerWhileTheStoreIsStopped) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  const auto store_up = [&] {
    return MetricValue(sidecar->HttpGet("/metrics"), "varve_worker_store_up");
  };
  EXPECT_TRUE(Eventually([&] { return store_up() == 1; }));
  store_->Signal(SIGSTOP);
  const absl::Time begin = absl::Now();
  std::string body;
  for (int i = 0; i < 8; ++i) {  // more than the threads of the HTTP server
    HttpGet(sidecar->http_address(), "/readyz", &body);
    HttpGet(sidecar->http_address(), "/", &body);
    EXPECT_EQ(sidecar->HttpGet("/healthz"), "ok\n");
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  EXPECT_TRUE(Eventually([&] { return store_up() == 0; }));
  EXPECT_EQ(HttpGet(sidecar->http_address(), "/readyz", &body), 503);
  store_->Signal(SIGCONT);
  EXPECT_TRUE(
      Eventually([&] { return HttpGet(sidecar->http_address(), "/readyz", &body) == 200; }));
  EXPECT_EQ(store_up(), 1);
}

// A stopped sidecar costs an engine its timeouts and no more.
TEST_P(WorkerProcesses, AStoppedSidecarDoesNotHoldItsEngine) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  worker::RemoteWorkerOptions options = RemoteOptions();
  options.connect_timeout = absl::Seconds(10);
  options.call_timeout = absl::Seconds(10);
  auto remote = worker::RemoteWorker::Attach(options);
  ASSERT_TRUE(remote.ok()) << remote.status();
  options.connect_timeout = absl::Seconds(1);
  options.call_timeout = absl::Seconds(1);
  options.close_timeout = absl::Seconds(1);
  auto impatient = worker::RemoteWorker::Attach(options);
  ASSERT_TRUE(impatient.ok()) << impatient.status();
  const RandomText text(kShape, 8, 400);
  Feeder feeder(impatient->get(), &text);
  ASSERT_OK(feeder.Prefill(kPolicy, 300));
  sidecar->Signal(SIGSTOP);
  const absl::Time begin = absl::Now();
  const absl::Status step = feeder.Attend(0);
  EXPECT_EQ(step.code(), absl::StatusCode::kDeadlineExceeded) << step;
  EXPECT_THAT(std::string(step.message()), HasSubstr("the sidecar did not answer within 1s"));
  EXPECT_FALSE(worker::RemoteWorker::Attach(options).ok());
  impatient->reset();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  sidecar->Signal(SIGCONT);
  Feeder patient(remote->get(), &text);
  ASSERT_OK(patient.Prefill(kPolicy, 300));
  ASSERT_OK(patient.Step(0));
}

TEST_P(WorkerProcesses, ASecondSidecarOnTheSameSocketIsRefused) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  const auto second = StartSidecar({}, /*wait_ready=*/false);
  ASSERT_NE(second, nullptr);
  const auto exit = second->Wait(absl::Seconds(30));
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_NE(*exit, 0);
  auto remote = worker::RemoteWorker::Attach(RemoteOptions());
  EXPECT_TRUE(remote.ok()) << remote.status();
}

TEST_P(WorkerProcesses, PagesForPeopleAndProbes) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  worker::RemoteWorkerOptions options = RemoteOptions();
  options.engine_name = "<b>engine</b>";
  auto remote = worker::RemoteWorker::Attach(options);
  ASSERT_TRUE(remote.ok()) << remote.status();
  EXPECT_EQ(sidecar->HttpGet("/healthz"), "ok\n");
  EXPECT_TRUE(Eventually([&] { return sidecar->HttpGet("/readyz") == "ready\n"; }));
  const std::string page = sidecar->HttpGet("/");
  EXPECT_THAT(page, HasSubstr("&lt;b&gt;engine&lt;/b&gt;"));
  EXPECT_THAT(page, HasSubstr(absl::StrCat("over ", GetParam())));
  const std::string metrics = sidecar->HttpGet("/metrics");
  EXPECT_EQ(MetricValue(metrics, "varve_worker_pool_pages"), (4 << 20) / kShape.page_bytes());
  EXPECT_THAT(metrics, HasSubstr("varve_build_info{"));
  store_->Signal(SIGKILL);
  ASSERT_TRUE(store_->Wait(absl::Seconds(30)).ok());
  EXPECT_TRUE(Eventually([&] {
    std::string body;
    return HttpGet(sidecar->http_address(), "/readyz", &body) == 503;
  }));
}

TEST_P(WorkerProcesses, CallsAndTheProcessAreCounted) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  auto remote = worker::RemoteWorker::Attach(RemoteOptions());
  ASSERT_TRUE(remote.ok()) << remote.status();
  EXPECT_EQ((*remote)->Close(12345).code(), absl::StatusCode::kNotFound);
  const RandomText text(kShape, 5, 400);
  Feeder feeder(remote->get(), &text);
  ASSERT_OK(feeder.Prefill(kPolicy, 300));
  ASSERT_OK(feeder.Step(0));
  const std::string metrics = sidecar->HttpGet("/metrics");
  const auto series = [](const std::string& family, const std::string& method,
                         const std::string& type, const std::string& code = "") {
    return absl::StrCat(family, "{", code, "grpc_method=\"", method,
                        "\",grpc_service=\"varve.v1.Worker\",grpc_type=\"", type, "\"}");
  };
  EXPECT_EQ(MetricValue(metrics, series("grpc_server_started_total", "Engine", "bidi_stream")), 1);
  EXPECT_EQ(MetricValue(metrics, series("grpc_server_handled_total", "Engine", "bidi_stream",
                                        "grpc_code=\"OK\",")),
            0)
      << "the engine is still attached";
  EXPECT_EQ(MetricValue(metrics, series("grpc_server_handled_total", "CloseSequence", "unary",
                                        "grpc_code=\"NotFound\",")),
            1);
  EXPECT_EQ(MetricValue(metrics, series("grpc_server_handling_seconds_count", "Step", "unary")),
            kShape.num_layers);
  // A decode step is one call for each layer.
  EXPECT_EQ(MetricValue(metrics, series("grpc_server_started_total", "Append", "unary")),
            kShape.num_layers);
  EXPECT_GT(MetricValue(metrics, "process_resident_memory_bytes"), 16 << 20);
  EXPECT_GT(MetricValue(metrics, "process_threads"), 1);
}

TEST_P(WorkerProcesses, TerminationDrainsAndLeavesNoFiles) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  auto remote = worker::RemoteWorker::Attach(RemoteOptions());
  ASSERT_TRUE(remote.ok()) << remote.status();
  const RandomText text(kShape, 4, 400);
  Feeder feeder(remote->get(), &text);
  ASSERT_OK(feeder.Open("full", "kept"));
  ASSERT_OK(feeder.Feed(300));
  const auto exit = sidecar->Stop();
  ASSERT_TRUE(exit.ok()) << exit.status();
  EXPECT_EQ(*exit, 0);
  EXPECT_EQ(FilesIn(directory_ + "/shm"), 0u);
  EXPECT_EQ(feeder.Step(0).code(), absl::StatusCode::kUnavailable);
  // What the sequence had was saved before the worker went.
  auto client = Connect(store_->grpc_address());
  ASSERT_TRUE(client.ok()) << client.status();
  const auto context = (*client)->AttachContext("kept");
  ASSERT_TRUE(context.ok()) << context.status();
  EXPECT_EQ(context->num_blocks, 37u);
  EXPECT_EQ(context->digest_blocks, (std::vector<uint32_t>{37, 37}));
}

TEST_P(WorkerProcesses, SettingsAndEnginesThatDoNotFitAreRefusedByName) {
  const auto sidecar = StartSidecar();
  ASSERT_NE(sidecar, nullptr);
  const auto refusal = [&](const std::function<void(worker::RemoteWorkerOptions&)>& change) {
    worker::RemoteWorkerOptions options = RemoteOptions();
    change(options);
    return absl::StrCat(worker::RemoteWorker::Attach(options).status().ToString());
  };
  EXPECT_THAT(refusal([](auto& o) { o.geometry.head_dim = 7; }), HasSubstr("head_dim is 7"));
  EXPECT_THAT(refusal([](auto& o) { o.pool_bytes = 1 << 30; }), HasSubstr("available: 16777216"));
  EXPECT_THAT(refusal([](auto& o) { o.pool_bytes = 4096; }), HasSubstr("at least 64 pages"));
  EXPECT_THAT(refusal([](auto& o) { o.engine_name = std::string(200, 'x'); }),
              HasSubstr("engine_name has 200 bytes"));
  EXPECT_THAT(refusal([](auto& o) { o.tensor_bytes = 1ull << 60; }), HasSubstr("tensor_bytes"));
  EXPECT_THAT(refusal([](auto& o) {
                o.address = "unix:/tmp/varve-no-such.sock";
                o.connect_timeout = absl::Milliseconds(50);
              }),
              HasSubstr("no sidecar answers on unix:/tmp/varve-no-such.sock"));
  // The pool is one budget for all engines, given back when they leave.
  for (int round = 0; round < 3; ++round) {
    worker::RemoteWorkerOptions most = RemoteOptions();
    most.pool_bytes = 0;
    auto all = worker::RemoteWorker::Attach(most);
    ASSERT_TRUE(all.ok()) << all.status();
    EXPECT_THAT(refusal([](auto&) {}), HasSubstr("available: 0 of 16777216"));
    EXPECT_THAT(refusal([](auto& o) { o.pool_bytes = 0; }), HasSubstr("16777216 bytes is taken"));
  }
}

INSTANTIATE_TEST_SUITE_P(Lanes, WorkerProcesses, ::testing::Values("shm", "tcp"),
                         [](const auto& info) { return info.param; });

// The child of ForkEngine.
int RunEngine(const std::string& address, int ready) {
  worker::RemoteWorkerOptions options;
  options.address = address;
  options.geometry = kShape;
  options.tensor_bytes = 1 << 20;
  options.pool_bytes = 4 << 20;
  auto remote = worker::RemoteWorker::Attach(options);
  if (!remote.ok()) return 1;
  const RandomText text(kShape, 77, 400);
  Feeder feeder(remote->get(), &text);
  if (!feeder.Prefill(kPolicy, 300).ok() || !feeder.Step(0).ok()) return 2;
  if (write(ready, "r", 1) != 1) return 3;
  while (true) pause();
}

}  // namespace
}  // namespace varve::testing

int main(int argc, char** argv) {
  if (argc == 4 && std::string(argv[1]) == "--engine") {
    return varve::testing::RunEngine(argv[2], std::atoi(argv[3]));
  }
  ::testing::InitGoogleMock(&argc, argv);
  return RUN_ALL_TESTS();
}
