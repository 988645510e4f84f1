// Each metric is moved by something: here by an engine that decodes and by clients that ask for
// more than there is. What takes faults is moved by other tests, named below.
#include <algorithm>
#include <functional>
#include <set>
#include <string>

#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "gpu_worker/remote_worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/metric_names.h"
#include "tests/support/store_process.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

constexpr page::Geometry kGeometry{2, 2, 4, 32, 8, page::DType::kF32};
constexpr uint64_t kObjectBytes = 1 << 20;

// Families without a line in `after` that `before` does not have.
std::set<std::string> Unmoved(const std::string& before, const std::string& after) {
  const std::set<std::string> old = absl::StrSplit(before, '\n');
  std::set<std::string> unmoved;
  for (const auto& [name, type] : ExposedFamilies(after)) {
    const std::string series = name + (type == "histogram" ? "_count" : "");
    const std::vector<std::string> lines = absl::StrSplit(after, '\n');
    const bool moved = std::any_of(lines.begin(), lines.end(), [&](const std::string& line) {
      return line.starts_with(series) && line.find_first_of(" {") == series.size() &&
             !old.contains(line);
    });
    if (!moved && !name.starts_with("process_")) unmoved.insert(name);
  }
  return unmoved;
}

class EverythingMovesTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({"--recall.max_contexts=3"}); }
  void Start(std::vector<std::string> flags) {
    client_.reset();
    flags.push_back("--host_tier.capacity_bytes=16MiB");
    flags.push_back("--sessions.max_object_bytes=1MiB");
    auto store = StoreProcess::Start(flags);
    ASSERT_OK(store.status());
    store_ = *std::move(store);
    store_before_ = StoreMetrics();
    client::ClientOptions options;
    options.address = store_->grpc_address();
    options.lanes = {"shm"};
    auto client = client::Client::Connect(options);
    ASSERT_OK(client.status());
    client_ = *std::move(client);
  }
  std::string StoreMetrics() const { return store_->HttpGet("/metrics"); }
  double Store(const std::string& series) const { return MetricValue(StoreMetrics(), series); }

  // Puts `key`, and pins it if it is stored.
  client::PutOutcome PutPinned(const client::Memory& memory, const page::ObjectKey& key,
                               const page::ObjectKey& parent) {
    client::PutItem item{key, {{&memory, 0, kObjectBytes}}, {}, "", {}};
    item.parent = parent;
    const auto results = client_->Put({&item, 1});
    EXPECT_TRUE(results.ok()) << results.status();
    if (!results.ok()) return client::PutOutcome::kFailed;
    if (results->front().outcome == client::PutOutcome::kStored) {
      const auto pinned = client_->Pin({&key, 1}, absl::InfiniteDuration());
      EXPECT_TRUE(pinned.ok()) << pinned.status();
    }
    return results->front().outcome;
  }

  std::unique_ptr<StoreProcess> store_;
  std::string store_before_;
  std::unique_ptr<client::Client> client_;
};

page::ObjectKey Key(uint32_t number) {
  return *page::MakeObjectKey("block-" + std::to_string(number), 0);
}

TEST_F(EverythingMovesTest, OfTheStoreWhoseTierIsFull) {
  const auto memory = client_->Allocate(kObjectBytes);
  ASSERT_OK(memory.status());
  const page::ObjectKey first = Key(0);
  const client::PutItem item{first, {{memory->get(), 0, kObjectBytes}}, {}, "", {}};
  ASSERT_OK(client_->Put({&item, 1}).status());
  uint32_t number = 1;
  ASSERT_EQ(PutPinned(**memory, Key(number), first), client::PutOutcome::kStored);
  do {
    ++number;
  } while (PutPinned(**memory, Key(number), {}) == client::PutOutcome::kStored && number < 20);
  ASSERT_LT(number, 20u);
  EXPECT_EQ(Store("varve_admission_rejects_total{reason=\"no_space\"}"), 1);
  EXPECT_EQ(Store("varve_tier_pinned_bytes{tier=\"host\"}"), (number - 1) * double{kObjectBytes});

  // The first was not pinned and had to go, although what follows it stays.
  const client::GetItem get{first, {}, {{memory->get(), 0, kObjectBytes}}};
  const auto got = client_->Get({&get, 1});
  ASSERT_OK(got.status());
  EXPECT_EQ(got->front().reason, client::MissReason::kEvicted);
  EXPECT_EQ(Store("varve_miss_total{reason=\"evicted\"}"), 1);
  EXPECT_EQ(Store("varve_evicted_cut_objects_total{tier=\"host\"}"), 1);
  const auto status = client_->Status();
  ASSERT_OK(status.status());
  EXPECT_EQ(status->tiers.front().cut_objects, 1u);

  const std::vector<page::ObjectKey> holes = {Key(3), Key(6)};
  ASSERT_OK(client_->Remove(holes, /*force=*/true).status());
  EXPECT_GT(Store("varve_tier_fragmentation_ratio{tier=\"host\"}"), 0);
}

TEST_F(EverythingMovesTest, OfTheStoreWhoseContextsGo) {
  const auto open_parked = [&](const char* id) {
    ASSERT_OK(client_->OpenContext(id, kGeometry, page::DigestKind::kMinMax).status());
    ASSERT_OK(client_->ParkContext(id).status());
  };
  for (const char* id : {"a", "b", "c", "d"}) open_parked(id);
  EXPECT_EQ(Store("varve_contexts_expired_total{reason=\"room\"}"), 1);

  Start({"--recall.parked_ttl_ms=100ms"});
  open_parked("a");
  const absl::Time limit = absl::Now() + absl::Seconds(60);
  while (Store("varve_contexts_expired_total{reason=\"age\"}") == 0 && absl::Now() < limit) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_EQ(Store("varve_contexts_expired_total{reason=\"age\"}"), 1);
}

TEST_F(EverythingMovesTest, WhenAnEngineDecodes) {
  auto process = StoreProcess::StartProgram(
      "varve-worker", {"--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", "--pool_bytes=16MiB",
                       "--transport.lanes=shm", "--store=" + store_->grpc_address()});
  ASSERT_OK(process.status());
  std::string before = (*process)->HttpGet("/metrics");
  // A busy machine has it notice the store later than the first look.
  for (const absl::Time limit = absl::Now() + absl::Seconds(60);
       MetricValue(before, "varve_worker_store_up") != 1 && absl::Now() < limit;) {
    absl::SleepFor(absl::Milliseconds(50));
    before = (*process)->HttpGet("/metrics");
  }
  std::string after, store_after;
  for (const auto path : {worker::RecallPath::kStore, worker::RecallPath::kWorker}) {
    worker::RemoteWorkerOptions options;
    options.address = (*process)->grpc_address();
    options.geometry = kGeometry;
    options.tensor_bytes = 1 << 20;
    options.recall_path = path;
    options.mass_sample_every = 1;
    const auto worker = worker::RemoteWorker::Attach(options);
    ASSERT_OK(worker.status());
    const RandomText text(kGeometry, 1, 320);
    Feeder feeder(worker->get(), &text);
    const bool in_store = path == worker::RecallPath::kStore;
    ASSERT_OK(feeder.Prefill(in_store ? "arkvale(budget=4p,hot=1,rerank=exact,multiplier=2)"
                                      : "arkvale(budget=4p,hot=1)",
                             300));
    for (uint32_t step = 0; step < 10; ++step) ASSERT_OK(feeder.Step(step));
    Feeder speculating(worker->get(), &text);
    ASSERT_OK(speculating.Prefill("arkvale(budget=4p,hot=1,tau=-1)", 300));
    for (uint32_t step = 0; step < 10; ++step) ASSERT_OK(speculating.Step(step));
    after = (*process)->HttpGet("/metrics");
    store_after = StoreMetrics();
  }
  {
    worker::RemoteWorkerOptions options;
    options.address = (*process)->grpc_address();
    options.geometry = kGeometry;
    options.geometry.rope = page::RopeParameters{.theta = 10000, .rotary_dim = kGeometry.head_dim};
    options.tensor_bytes = 1 << 20;
    options.recall_path = worker::RecallPath::kWorker;
    const auto worker = worker::RemoteWorker::Attach(options);
    ASSERT_OK(worker.status());
    const RandomText text(options.geometry, 1, 320);
    Feeder low_rank(worker->get(), &text);
    ASSERT_OK(low_rank.Prefill("shadowkv(budget=4p,hot=1,rank=8)", 300));
    for (uint32_t step = 0; step < 10; ++step) ASSERT_OK(low_rank.Step(step));
    after = (*process)->HttpGet("/metrics");
    for (const char* kind : {"rows", "basis", "digests", "outliers", "window", "hot"}) {
      const std::string labels = std::string("{kind=\"") + kind + "\"}";
      EXPECT_GT(MetricValue(after, "varve_worker_memory_bytes" + labels), 0) << kind;
    }
    ASSERT_OK((*worker)->Close(low_rank.id()));
    const std::string closed = (*process)->HttpGet("/metrics");
    for (const char* kind : {"rows", "basis", "gram", "digests", "outliers", "window", "hot"}) {
      const std::string labels = std::string("{kind=\"") + kind + "\"}";
      EXPECT_EQ(MetricValue(closed, "varve_worker_memory_bytes" + labels), 0) << kind;
    }
  }
  const auto worker = [&](const std::string& series) { return MetricValue(after, series); };
  EXPECT_GT(worker("varve_worker_evicted_pages_total"), 0);
  EXPECT_LT(worker("varve_worker_pool_free_pages"), worker("varve_worker_pool_pages"));
  EXPECT_GT(worker("varve_worker_attend_duration_seconds_count"), 0);
  EXPECT_GT(worker("varve_worker_prefetched_pages_total{outcome=\"used\"}"), 0);
  EXPECT_GT(worker("varve_worker_speculated_heads_total{outcome=\"kept\"}"), 0);
  // The class of the worker's requests arrives.
  for (const char* of_class : {"demand", "prefetch"}) {
    const std::string labels = std::string("{class=\"") + of_class + "\"}";
    EXPECT_GT(MetricValue(store_after, "varve_fetch_requests_total" + labels), 0) << of_class;
  }
  for (const char* stage : {"score", "select", "locate", "transfer", "install"}) {
    const std::string labels = std::string("{stage=\"") + stage + "\"}";
    EXPECT_GT(worker("varve_recall_stage_duration_seconds_count" + labels), 0) << stage;
  }
  // Rebuilt and lost: store_restart_test. Up is 1 from the start: worker_processes_test.
  const std::set<std::string> elsewhere = {"varve_build_info", "varve_worker_lost_pages_total",
                                           "varve_worker_rebuilt_contexts_total",
                                           "varve_worker_store_up"};
  EXPECT_EQ(Unmoved(before, after), elsewhere);
  // Faults: store_faults_test. Evictions, expiries and refusals: the tests above. Disks:
  // store_nvme_test.
  const std::set<std::string> of_others = {"varve_build_info",
                                           "varve_admission_rejects_total",
                                           "varve_checksum_failures_total",
                                           "varve_contexts_expired_total",
                                           "varve_contexts_forgotten_total",
                                           "varve_contexts_left_on_disk",
                                           "varve_evicted_bytes_total",
                                           "varve_evicted_cut_objects_total",
                                           "varve_evicted_idle_seconds",
                                           "varve_miss_total",
                                           "varve_move_queue_objects",
                                           "varve_moved_bytes_total",
                                           "varve_nvme_damaged_records_total",
                                           "varve_nvme_directories",
                                           "varve_nvme_failed_objects_total",
                                           "varve_nvme_io_bytes_total",
                                           "varve_nvme_io_duration_seconds",
                                           "varve_nvme_io_errors_total",
                                           "varve_nvme_io_info",
                                           "varve_nvme_live_bytes",
                                           "varve_nvme_lost_notes_total",
                                           "varve_nvme_note_bytes",
                                           "varve_nvme_reclaim_moved_bytes_total",
                                           "varve_nvme_reclaimed_segments_total",
                                           "varve_tier_capacity_bytes",
                                           "varve_tier_fragmentation_ratio",
                                           "varve_transfer_errors_total"};
  EXPECT_EQ(Unmoved(store_before_, store_after), of_others);
}

}  // namespace
}  // namespace varve::testing
