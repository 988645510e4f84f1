// A real store killed and started again under decoding sequences, over each lane, for a worker that
// is linked into the engine and for one behind the sidecar.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "gpu_worker/remote_worker.h"
#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "kvstore/base/status.h"
#include "tests/support/assert_ok.h"
#include "tests/support/attended_pages.h"
#include "tests/support/store_process.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};
constexpr uint32_t kPrompt = 400;
constexpr uint32_t kPromptPages = 50;

struct Setting {
  std::string lane;
  bool sidecar = false;
  worker::RecallPath path = worker::RecallPath::kWorker;
};
void PrintTo(const Setting& setting, std::ostream* out) {
  *out << (setting.sidecar ? "Sidecar" : "Linked") << setting.lane
       << (setting.path == worker::RecallPath::kStore ? "PathStore" : "PathWorker");
}

class StoreRestartProcesses : public ::testing::TestWithParam<Setting> {
 protected:
  StoreRestartProcesses()
      : socket_(absl::StrCat("/tmp/varve-test-", getpid(), "-", absl::ToUnixNanos(absl::Now()),
                             ".sock")),
        text_(kShape, 51, 900) {}
  void SetUp() override {
    StartStore({});
    ASSERT_OK(GetParam().sidecar ? StartSidecar() : Link());
  }
  void StartStore(const std::vector<std::string>& flags) {
    auto store = StoreProcess::Start(flags);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
  }
  void KillStore() {
    address_ = store_->grpc_address();
    store_->Signal(SIGKILL);
    ASSERT_TRUE(store_->Wait(absl::Seconds(30)).ok());
  }

  absl::Status Link() {
    client::ClientOptions client;
    client.address = store_->grpc_address();
    client.lanes = {GetParam().lane};
    client.transfer_deadline = absl::Seconds(5);
    client.connect_timeout = absl::Seconds(1);
    VARVE_ASSIGN_OR_RETURN(client_, client::Client::Connect(client));
    pool_memory_.resize(1024 * kShape.page_bytes());
    worker::WorkerOptions options;
    options.geometry = kShape;
    options.recall_path = GetParam().path;
    options.pool_memory = pool_memory_;
    pool_ = pool_memory_;
    VARVE_ASSIGN_OR_RETURN(worker_, worker::Worker::Create(options, client_.get()));
    return absl::OkStatus();
  }
  absl::Status StartSidecar() {
    VARVE_ASSIGN_OR_RETURN(
        sidecar_, StoreProcess::StartProgram(
                      "varve-worker", {"--listen=unix:" + socket_, "--http_listen=127.0.0.1:0",
                                       "--store=" + store_->grpc_address(), "--pool_bytes=16MiB",
                                       "--transport.lanes=" + GetParam().lane,
                                       "--transport.transfer_deadline_ms=5s"}));
    worker::RemoteWorkerOptions options;
    options.address = "unix:" + socket_;
    options.geometry = kShape;
    options.recall_path = GetParam().path;
    options.tensor_bytes = 1 << 20;
    options.pool_bytes = 1024 * kShape.page_bytes();
    VARVE_ASSIGN_OR_RETURN(std::unique_ptr<worker::RemoteWorker> remote,
                           worker::RemoteWorker::Attach(options));
    pool_ = remote->pool();
    worker_ = std::move(remote);
    return absl::OkStatus();
  }

  // Attention over exactly the pages that the table names, all of them real.
  void ExpectHonest(const Feeder& feeder, uint32_t step) {
    for (uint32_t l = 0; l < kShape.num_layers; ++l) {
      const auto pages = AttendedPages(*worker_, pool_, text_, feeder, l);
      ASSERT_TRUE(pages.ok()) << pages.status();
      const NaiveResult truth =
          NaiveAttention(text_, l, text_.Query(l, step), feeder.tokens(), *pages);
      EXPECT_LE(RelativeError(feeder.outputs()[l], truth.out), 2e-5) << step;
    }
  }
  // The announced token is brought again until its step is done. Anything but a store that is away
  // is a failure.
  absl::Status AttendUntilDone(Feeder& feeder, uint32_t step) {
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    while (true) {
      const absl::Status status = feeder.AttendWithToken(step);
      const bool away = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status);
      if (!away || absl::Now() > deadline) return status;
    }
  }

  const std::string socket_;
  const RandomText text_;
  std::string address_;
  std::unique_ptr<StoreProcess> store_, sidecar_;
  std::unique_ptr<client::Client> client_;
  std::vector<std::byte> pool_memory_;
  std::span<const std::byte> pool_;
  std::unique_ptr<worker::Worker> worker_;
};

TEST_P(StoreRestartProcesses, DecodingGoesOnOverWhatIsThere) {
  Feeder sparse(worker_.get(), &text_), whole(worker_.get(), &text_);
  ASSERT_OK(sparse.Prefill("arkvale(budget=6p,hot=1,generated=paged)", kPrompt));
  ASSERT_OK(whole.Open("full", "whole"));
  ASSERT_OK(whole.Feed(kPrompt));
  ASSERT_OK(whole.Finish());
  uint32_t step = 0;
  for (; step < 10; ++step) {
    ASSERT_OK(sparse.Step(step));
    ASSERT_OK(whole.Step(step));
  }
  KillStore();
  // What is resident needs no store; what is not, fails by name and is not skipped.
  ASSERT_OK(whole.Step(step));
  ASSERT_OK(sparse.Announce());
  absl::Status status;
  for (uint32_t query = 500; status.ok() && query < 540; ++query) {
    status = sparse.AttendWithToken(query);
    if (status.ok()) ExpectHonest(sparse, query);
  }
  EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) << status;
  // The page's own fetch, or the recall of its layer, when the store that scores is the one that is
  // gone.
  EXPECT_THAT(
      std::string(status.message()),
      ::testing::AnyOf(::testing::HasSubstr("page "), ::testing::HasSubstr("recall of layer ")));
  EXPECT_EQ(sparse.Info().stats.lost_pages, 0u);  // nobody knows yet

  StartStore({"--listen=" + address_});
  ASSERT_OK(AttendUntilDone(sparse, step));
  for (++step; step < 120; ++step) {
    ASSERT_OK(sparse.Announce());
    ASSERT_OK(AttendUntilDone(sparse, step));
    ExpectHonest(sparse, step);
    ASSERT_OK(whole.Step(step));
    ExpectHonest(whole, step);
  }
  // Pages that only the old store had are lost, and it is said; the rest goes on being saved.
  const worker::SequenceStats stats = sparse.Info().stats;
  EXPECT_GT(stats.lost_pages, 0u);
  EXPECT_LT(stats.lost_pages, 4u * kPromptPages);
  EXPECT_EQ(whole.Info().stats.lost_pages, 0u);
  if (sidecar_ != nullptr) {
    const std::string metrics = sidecar_->HttpGet("/metrics");
    EXPECT_EQ(MetricValue(metrics, "varve_worker_lost_pages_total"), stats.lost_pages);
    EXPECT_EQ(MetricValue(metrics, "varve_worker_rebuilt_contexts_total"), 2);
  }
  // The sequence that had everything left a context that another can resume.
  ASSERT_OK(worker_->Close(whole.id()));
  Feeder resumed(worker_.get(), &text_);
  ASSERT_OK(resumed.Open("quest(budget=0.2)", "", "whole"));
  EXPECT_GE(resumed.tokens(), kPrompt + 100);
  ASSERT_OK(resumed.Finish());
  ASSERT_OK(resumed.Step(700));
  ExpectHonest(resumed, 700);
}

// A store whose objects and contexts are on a disk.
class StoreOnDiskProcesses : public StoreRestartProcesses {
 protected:
  StoreOnDiskProcesses() : directory_(absl::StrCat(socket_, ".nvme")) {
    std::filesystem::create_directories(directory_);
  }
  ~StoreOnDiskProcesses() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  void SetUp() override {
    StartStoreOnDisk({});
    if (HasFatalFailure()) return;
    ASSERT_OK(GetParam().sidecar ? StartSidecar() : Link());
  }
  void StartStoreOnDisk(std::vector<std::string> flags) {
    for (const std::string& flag :
         {absl::StrCat("--nvme_tier.directories=", directory_, "=", 128 << 20),
          std::string("--sessions.max_object_bytes=512KiB"),
          std::string("--nvme_tier.durability=nvme_sync"),
          std::string("--nvme_tier.segment_bytes=4MiB"),
          std::string("--nvme_tier.staging_bytes=4MiB")}) {
      flags.push_back(flag);
    }
    StartStore(flags);
  }

  const std::string directory_;
};

// What the killed store had acknowledged is there: no page is lost, and a worker that knows nothing
// resumes the context after another restart.
TEST_P(StoreOnDiskProcesses, NothingIsLost) {
  Feeder sparse(worker_.get(), &text_);
  ASSERT_OK(sparse.Open("arkvale(budget=6p,hot=1,generated=paged)", "kept"));
  ASSERT_OK(sparse.Feed(kPrompt));
  ASSERT_OK(sparse.Finish());
  uint32_t step = 0;
  for (; step < 10; ++step) ASSERT_OK(sparse.Step(step));
  KillStore();
  StartStoreOnDisk({"--listen=" + address_});
  for (; step < 60; ++step) {
    ASSERT_OK(sparse.Announce());
    ASSERT_OK(AttendUntilDone(sparse, step));
    ExpectHonest(sparse, step);
  }
  EXPECT_EQ(sparse.Info().stats.lost_pages, 0u);
  ASSERT_OK(worker_->Close(sparse.id()));
  // In order this time: everything that was sent is kept.
  store_->Signal(SIGTERM);
  ASSERT_TRUE(store_->Wait(absl::Seconds(30)).ok());
  StartStoreOnDisk({"--listen=" + address_});
  Feeder resumed(worker_.get(), &text_);
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  absl::Status opened;
  do {
    opened = resumed.Open("quest(budget=0.2)", "", "kept");
  } while ((absl::IsUnavailable(opened) || absl::IsDeadlineExceeded(opened)) &&
           absl::Now() < deadline);
  ASSERT_OK(opened);
  EXPECT_EQ(resumed.tokens(), (kPrompt + 60) / 8 * 8);
  ASSERT_OK(resumed.Finish());
  ASSERT_OK(resumed.Step(700));
  ExpectHonest(resumed, 700);
}

INSTANTIATE_TEST_SUITE_P(All, StoreOnDiskProcesses,
                         ::testing::Values(Setting{"shm", false},
                                           Setting{"tcp", true, worker::RecallPath::kStore}),
                         ::testing::PrintToStringParamName());

INSTANTIATE_TEST_SUITE_P(All, StoreRestartProcesses,
                         ::testing::Values(Setting{"shm", false},
                                           Setting{"tcp", false, worker::RecallPath::kStore},
                                           Setting{"shm", true, worker::RecallPath::kStore},
                                           Setting{"tcp", true}),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace varve::testing
