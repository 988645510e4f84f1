// The worker against a store that is slow, refuses or forgets.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "kvstore/base/hash.h"
#include "tests/support/assert_ok.h"
#include "tests/support/eventually.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

using ::testing::HasSubstr;
using worker::AttendItem;
using worker::RecallPath;

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};

std::unique_ptr<worker::Worker> Make(FakeClient* client, uint32_t pages, RecallPath path,
                                     base::Metrics* metrics = nullptr) {
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.pool_bytes = pages * kShape.page_bytes();
  options.recall_path = path;
  options.step_deadline = absl::Seconds(5);
  options.metrics = metrics;
  auto made = worker::Worker::Create(options, client);
  EXPECT_TRUE(made.ok()) << made.status();
  return std::move(*made);
}

class WorkerFaults : public ::testing::TestWithParam<RecallPath> {
 protected:
  FakeClient client_;
};

// P12: while the store has not acknowledged, no slot is reused, whatever the pressure; the fake
// reads the slots only when puts are released, and checks the checksum taken at sealing.
TEST_P(WorkerFaults, NoSlotIsReusedBeforeItsAcknowledgement) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    FakeClient client;
    std::mt19937_64 random(seed);
    const RandomText text(kShape, seed, 900);
    const auto worker = Make(&client, 64 + random() % 60, GetParam());
    std::atomic<bool> stop{false};
    std::thread jitter([&] {  // holds and releases puts at random moments
      std::mt19937_64 moments(seed);
      while (!stop) {
        client.HoldPuts();
        // Where others want the CPU too a yield takes long, and the worker waits for 5 s only.
        const absl::Time held_until = absl::Now() + absl::Milliseconds(50);
        for (uint64_t i = moments() % 2000; i > 0 && absl::Now() < held_until; --i) {
          std::this_thread::yield();
        }
        const size_t held = client.held_puts();
        client.ReleasePuts();
        for (uint64_t i = moments() % 200; i > 0; --i) std::this_thread::yield();
        // One at least goes through.
        while (!stop && held > 0 && client.held_puts() >= held) std::this_thread::yield();
      }
      client.ReleasePuts();
    });
    Feeder feeder(worker.get(), &text);
    absl::Status status = feeder.Open("arkvale(budget=4p,hot=2,generated=paged)");
    status.Update(feeder.Feed(700, 1 + random() % 100));
    status.Update(feeder.Finish());
    for (uint32_t step = 0; status.ok() && step < 60; ++step) {
      status.Update(feeder.Step(step));
      for (const auto& out : feeder.outputs()) {
        for (float x : out) ASSERT_TRUE(std::isfinite(x));
      }
    }
    stop = true;
    jitter.join();
    ASSERT_OK(status);
    // Every object in the store is what was appended.
    const FakeContext context = client.context(feeder.Info().context_id);
    ASSERT_GE(context.hashes.size(), 700u / 8);
    for (uint32_t block = 0; block < 700 / 8; ++block) {
      for (uint32_t l = 0; l < kShape.num_layers; ++l) {
        const std::string expected = text.Page(l, 0, block) + text.Page(l, 1, block);
        const page::ObjectKey key = *page::MakeObjectKey(context.hashes[block], l);
        ASSERT_EQ(client.object(key), expected);
        ASSERT_EQ(client.parent(key), block == 0
                                          ? page::ObjectKey()
                                          : *page::MakeObjectKey(context.hashes[block - 1], l));
      }
    }
  }
}

TEST_P(WorkerFaults, NothingIsEvictedWhileTheStoreIsSilent) {
  const RandomText text(kShape, 3, 900);
  const auto worker = Make(&client_, 128, GetParam());
  client_.HoldPuts();
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Open("arkvale(budget=4p,hot=1)"));
  ASSERT_OK(feeder.Feed(256));  // fills the pool
  EXPECT_EQ(worker->Status().free_pages, 0u);
  std::thread late([&] {
    EXPECT_TRUE(Eventually([&] { return client_.held_puts() > 0; }));
    client_.ReleasePuts();
  });
  ASSERT_OK(feeder.Feed(8));  // waits for the first acknowledgements
  late.join();
  EXPECT_GT(feeder.Info().stats.evicted_pages, 0u);
}

TEST_P(WorkerFaults, OneGetForAWholeBatch) {
  if (GetParam() == RecallPath::kStore) return;  // one Recall per context there
  const RandomText text(kShape, 4, 400);
  const auto worker = Make(&client_, 1024, GetParam());
  std::vector<Feeder> feeders(4, Feeder(worker.get(), &text));
  for (Feeder& feeder : feeders) ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 300));
  for (uint32_t step = 0; step < 6; ++step) {
    for (uint32_t l = 0; l < kShape.num_layers; ++l) {
      std::vector<std::vector<float>> q, out(4, std::vector<float>(128));
      std::vector<AttendItem> items;
      for (uint32_t i = 0; i < 4; ++i) q.push_back(text.Query(l, step * 4 + i));
      for (uint32_t i = 0; i < 4; ++i) {
        items.push_back({feeders[i].id(), q[i].data(), out[i].data(), nullptr});
      }
      const uint64_t calls = client_.get_calls();
      ASSERT_OK(worker->Attend(l, items));
      EXPECT_LE(client_.get_calls(), calls + 1);
    }
  }
  EXPECT_GT(client_.get_items(), 4u);
  EXPECT_EQ(client_.recall_calls(), 0u);
}

// P19: nothing is asked of the store when the budget covers the prompt.
TEST_P(WorkerFaults, SmallContextsAskNothing) {
  const RandomText text(kShape, 5, 200);
  base::Metrics metrics;
  const auto worker = Make(&client_, 1024, GetParam(), &metrics);
  for (const char* policy : {"arkvale(budget=13p)", "arkvale(budget=1)", "full", "quest"}) {
    Feeder feeder(worker.get(), &text);
    ASSERT_OK(feeder.Prefill(policy, 100));
    for (uint32_t step = 0; step < 30; ++step) ASSERT_OK(feeder.Step(step));
    EXPECT_EQ(feeder.Info().stats.recalled_bytes, 0u);
  }
  EXPECT_EQ(client_.get_calls() + client_.recall_calls(), 0u);
  // Nothing was scored: no samples of zero seconds.
  for (const char* series :
       {"duration_seconds_count{path=\"worker\"}", "duration_seconds_count{path=\"store\"}",
        "stage_duration_seconds_count{stage=\"score\"}",
        "stage_duration_seconds_count{stage=\"select\"}"}) {
    EXPECT_THAT(metrics.Render(), HasSubstr(absl::StrCat("varve_recall_", series, " 0\n")));
  }
}

TEST_P(WorkerFaults, EqualPrefixesAreStoredOnce) {
  const RandomText text(kShape, 6, 300);
  base::Metrics metrics;
  const auto worker = Make(&client_, 1024, GetParam(), &metrics);
  Feeder a(worker.get(), &text), b(worker.get(), &text);
  ASSERT_OK(a.Prefill("arkvale(budget=4p,hot=1)", 240, 50));
  const size_t objects = client_.objects();
  ASSERT_OK(b.Prefill("arkvale(budget=4p,hot=1)", 240, 17));
  EXPECT_EQ(client_.objects(), objects);
  EXPECT_EQ(objects, 60u);
  ASSERT_OK(a.Step(1));
  ASSERT_OK(b.Step(1));
  EXPECT_EQ(a.outputs(), b.outputs());
  EXPECT_THAT(metrics.Render(),
              HasSubstr("varve_worker_saved_objects_total{result=\"exists\"} 60"));
  // The names are the chain of design: hash of the namespace and geometry, then of the tokens.
  const std::string root = base::Sha256(absl::StrCat("default\n", kShape.Id()));
  const std::string first = base::ChainBlockHash(root, text.Tokens(0, 8));
  EXPECT_EQ(client_.context(a.Info().context_id).hashes[0], first);
  EXPECT_NE(client_.object(*page::MakeObjectKey(first, 1)), "");
}

TEST_P(WorkerFaults, AFailedPutIsTriedOnceMore) {
  const RandomText text(kShape, 7, 300);
  const auto worker = Make(&client_, 1024, GetParam());
  client_.FailPuts(1, absl::UnavailableError("hiccup"));
  client_.RefusePuts(3);
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 240));
  EXPECT_EQ(client_.objects(), 60u);
  EXPECT_EQ(feeder.Info().stats.saved_objects, 60u);
}

TEST_P(WorkerFaults, UnsavedPagesStayAndFinishPrefillSaysSo) {
  const RandomText text(kShape, 8, 300);
  base::Metrics metrics;
  const auto worker = Make(&client_, 1024, GetParam(), &metrics);
  client_.FailPuts(1000, absl::UnavailableError("the store is away"));
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Open("arkvale(budget=4p,hot=1)"));
  ASSERT_OK(feeder.Feed(240));
  const absl::Status status = feeder.Finish();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("the store is away"));
  EXPECT_EQ(worker->Status().free_pages, 1024u - 4 * 30);  // nothing left
  EXPECT_THAT(metrics.Render(),
              ::testing::Not(HasSubstr("varve_worker_saved_objects_total{result=\"failed\"} 0\n")));
  client_.FailPuts(0, absl::OkStatus());
  ASSERT_OK(feeder.Finish());  // tries again
  ASSERT_OK(feeder.Step(0));
  EXPECT_EQ(client_.objects(), 60u);
}

TEST_P(WorkerFaults, AFullStoreIsResourceExhausted) {
  const RandomText text(kShape, 9, 300);
  const auto worker = Make(&client_, 1024, GetParam());
  client_.RefusePuts(100000);
  Feeder feeder(worker.get(), &text), full(worker.get(), &text);
  ASSERT_OK(feeder.Open("arkvale(budget=4p,hot=1)"));
  ASSERT_OK(feeder.Feed(240));
  EXPECT_EQ(feeder.Finish().code(), absl::StatusCode::kResourceExhausted);
  // Policies that keep everything resident do not need the store.
  ASSERT_OK(full.Prefill("full", 240));
  ASSERT_OK(full.Step(0));
}

TEST_P(WorkerFaults, LostDigestsAreSentAgain) {
  const RandomText text(kShape, 10, 300);
  const auto worker = Make(&client_, 1024, GetParam());
  client_.FailDigests(1, absl::UnavailableError("stream broke"));
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 240, 30));
  EXPECT_EQ(client_.context(feeder.Info().context_id).digest_blocks,
            (std::vector<uint32_t>{30, 30}));
  ASSERT_OK(feeder.Step(0));
}

// A page that cannot be had fails the step and is named; what is there serves later steps.
TEST_P(WorkerFaults, AMissingPageFailsTheStepByName) {
  const RandomText text(kShape, 11, 300);
  const auto worker = Make(&client_, 1024, GetParam());
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 240));
  const FakeContext context = client_.context(feeder.Info().context_id);
  const auto objects = client_.AllObjects();
  for (const std::string& hash : context.hashes) {
    for (uint32_t l = 0; l < 2; ++l) client_.Forget(*page::MakeObjectKey(hash, l));
  }
  absl::Status status;
  for (uint32_t step = 0; status.ok() && step < 20; ++step) status = feeder.Attend(step);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("page "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("of layer 0, KV head "));
  EXPECT_THAT(std::string(status.message()), HasSubstr("never stored"));
  ASSERT_OK(worker->Close(feeder.id()));
  EXPECT_EQ(worker->Status().free_pages, worker->Status().pool_pages);
}

TEST_P(WorkerFaults, AFailedTransferQuarantinesItsSlots) {
  const RandomText text(kShape, 12, 300);
  const auto worker = Make(&client_, 1024, GetParam());
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 240));
  client_.FailGets(1, absl::UnavailableError("connection reset"));
  absl::Status status;
  uint32_t step = 0;
  for (; status.ok() && step < 20; ++step) status = feeder.Attend(step);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("connection reset"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 0"));
  ASSERT_OK(feeder.Attend(step));  // the next step works
  ASSERT_OK(worker->Close(feeder.id()));
  // A late write may still land in them: they are neither free nor in use for a while.
  EXPECT_LT(worker->Status().free_pages, worker->Status().pool_pages);
}

// P13: a context that was cut behind the worker's back is not read by its old epoch.
TEST_P(WorkerFaults, AStaleEpochIsRefused) {
  const RandomText text(kShape, 13, 300);
  const auto worker = Make(&client_, 1024, GetParam());
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Open("arkvale(budget=4p,hot=1)", "shared"));
  ASSERT_OK(feeder.Feed(240));
  ASSERT_OK(feeder.Finish());
  ASSERT_OK(client_.TruncateContext("shared", 10).status());
  ASSERT_OK(client_.AppendContext("shared", 10, std::vector<std::string>{"other"}).status());
  if (GetParam() == RecallPath::kStore) {
    EXPECT_EQ(feeder.Attend(0).code(), absl::StatusCode::kFailedPrecondition);
  } else {
    // Pages are named by content: the worker's own blocks, whatever the context became.
    const RandomText same(kShape, 13, 300);
    Feeder twin(worker.get(), &same);
    ASSERT_OK(twin.Prefill("quest(budget=4p)", 240));
    ASSERT_OK(feeder.Attend(0));
    ASSERT_OK(twin.Attend(0));
    EXPECT_EQ(feeder.outputs(), twin.outputs());
  }
  // A fork taken before is untouched by what happens to the original.
  EXPECT_EQ(worker->Close(feeder.id()).code(), absl::StatusCode::kOk);
}

// The store did what it was asked, and only the answer was lost.
TEST_P(WorkerFaults, ALostReplyOfAppendContextHeals) {
  const RandomText text(kShape, 33, 900);
  const auto worker = Make(&client_, 1024, GetParam());
  for (int lost : {1, 2, 5}) {
    SCOPED_TRACE(lost);
    Feeder feeder(worker.get(), &text);
    ASSERT_OK(feeder.Open("arkvale(budget=4p,hot=1)"));
    client_.LoseAppendReplies(lost);
    ASSERT_OK(feeder.Feed(256));
    for (int i = 0; i < lost && !feeder.Finish().ok(); ++i) {
    }
    const FakeContext context = client_.context(feeder.Info().context_id);
    EXPECT_EQ(context.hashes.size(), 32u);
    EXPECT_EQ(context.digest_blocks, (std::vector<uint32_t>{32, 32}));
    ASSERT_OK(feeder.Step(0));
    ASSERT_OK(worker->Close(feeder.id()));
  }
}

// Queries that are not finite are refused by name; scores beyond single precision never become
// wrong numbers.
TEST_P(WorkerFaults, QueriesThatCannotBeScoredAreRefused) {
  const RandomText text(kShape, 34, 300);
  const auto worker = Make(&client_, 1024, GetParam());
  for (const char* policy : {"full", "arkvale(budget=4p,hot=1)"}) {
    SCOPED_TRACE(policy);
    Feeder feeder(worker.get(), &text);
    ASSERT_OK(feeder.Prefill(policy, 240));
    std::vector<float> out(128), lse(4);
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      std::vector<float> q = text.Query(0, 0);
      q[70] = bad;
      const AttendItem item{feeder.id(), q.data(), out.data(), lse.data()};
      const absl::Status refused = worker->Attend(0, {&item, 1});
      EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
      EXPECT_THAT(std::string(refused.message()), HasSubstr("query head 2, channel 6 is NaN"));
    }
    const std::vector<float> huge(128, 3e38f);
    const AttendItem item{feeder.id(), huge.data(), out.data(), lse.data()};
    const absl::Status refused = worker->Attend(0, {&item, 1});
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("overflows single precision"));
    ASSERT_OK(feeder.Step(0));
    ASSERT_OK(worker->Close(feeder.id()));
  }
}

TEST_P(WorkerFaults, AFailedMassSampleDoesNotFailTheStep) {
  const RandomText text(kShape, 35, 300);
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.pool_bytes = 1024 * kShape.page_bytes();
  options.recall_path = GetParam();
  options.mass_sample_every = 1;
  auto made = worker::Worker::Create(options, &client_);
  ASSERT_TRUE(made.ok()) << made.status();
  Feeder feeder(made->get(), &text);
  ASSERT_OK(feeder.Prefill("streaming(budget=4p)", 240));  // recalls nothing: all Gets are samples
  client_.FailGets(1000, absl::UnavailableError("the store is away"));
  ASSERT_OK(feeder.Attend(0));
  EXPECT_EQ(feeder.Info().stats.mass_samples, 0u);
  client_.FailGets(0, absl::OkStatus());
  ASSERT_OK(feeder.Attend(1));
  EXPECT_GT(feeder.Info().stats.mass_samples, 0u);
}

TEST_P(WorkerFaults, UnnamedContextsAreDroppedAndNamedOnesParked) {
  const RandomText text(kShape, 14, 300);
  const auto worker = Make(&client_, 1024, GetParam());
  Feeder unnamed(worker.get(), &text), named(worker.get(), &text);
  ASSERT_OK(unnamed.Prefill("arkvale(budget=4p)", 100));
  const std::string id = unnamed.Info().context_id;
  EXPECT_TRUE(client_.has_context(id));
  ASSERT_OK(worker->Close(unnamed.id()));
  EXPECT_FALSE(client_.has_context(id));
  ASSERT_OK(named.Open("arkvale(budget=4p)", "mine"));
  ASSERT_OK(named.Feed(100));
  ASSERT_OK(worker->Close(named.id()));
  EXPECT_TRUE(client_.context("mine").parked);
  EXPECT_EQ(client_.context("mine").hashes.size(), 12u);
  EXPECT_EQ(client_.context("mine").digest_blocks, (std::vector<uint32_t>{12, 12}));
}

TEST_P(WorkerFaults, CallsForOneSequenceMustNotOverlap) {
  const RandomText text(kShape, 15, 900);
  const auto worker = Make(&client_, 128, GetParam());
  client_.HoldPuts();
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Open("arkvale(budget=4p,hot=1)"));
  ASSERT_OK(feeder.Feed(100));
  std::thread waiting([&] {  // until puts are released
    absl::Status finished;
    do {
      finished = feeder.Finish();
    } while (absl::StrContains(finished.message(), "another call"));  // one of the calls below
    EXPECT_TRUE(finished.ok()) << finished;
  });
  EXPECT_TRUE(Eventually([&] {
    return worker->Extend(feeder.id(), {}).code() == absl::StatusCode::kFailedPrecondition;
  }));
  EXPECT_EQ(worker->Info(feeder.id())->tokens, 100u);  // may be asked at any time
  client_.ReleasePuts();
  waiting.join();
}

TEST_P(WorkerFaults, EverySeriesMoves) {
  const RandomText text(kShape, 16, 300);
  base::Metrics metrics;
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.pool_bytes = 1024 * kShape.page_bytes();
  options.recall_path = GetParam();
  options.mass_sample_every = 1;
  options.metrics = &metrics;
  auto made = worker::Worker::Create(options, &client_);
  ASSERT_TRUE(made.ok());
  const std::string before = metrics.Render();
  EXPECT_THAT(before, HasSubstr("varve_recall_pages_total{outcome=\"fetched\"} 0"));
  EXPECT_THAT(before, HasSubstr("varve_recall_attention_mass_ratio_count{kind=\"true\"} 0"));
  Feeder feeder(made->get(), &text);
  ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 240));
  for (uint32_t step = 0; step < 10; ++step) ASSERT_OK(feeder.Step(step));
  const std::string after = metrics.Render();
  const worker::SequenceStats stats = feeder.Info().stats;
  EXPECT_THAT(after, HasSubstr(absl::StrCat("varve_recall_pages_total{outcome=\"fetched\"} ",
                                            stats.recalled_pages)));
  EXPECT_THAT(after, HasSubstr(absl::StrCat("varve_recall_pages_total{outcome=\"hot\"} ",
                                            stats.hot_pages)));
  EXPECT_THAT(after,
              HasSubstr(absl::StrCat("varve_recall_attention_mass_ratio_count{kind=\"true\"} ",
                                     stats.mass_samples)));
  EXPECT_EQ(stats.mass_bound_samples, stats.mass_samples);
  EXPECT_THAT(after,
              HasSubstr(absl::StrCat("varve_recall_attention_mass_ratio_count{kind=\"bound\"} ",
                                     stats.mass_bound_samples)));
  EXPECT_THAT(after, HasSubstr(absl::StrCat("varve_recall_duration_seconds_count{path=\"",
                                            GetParam() == RecallPath::kStore ? "store" : "worker",
                                            "\"} 20")));
  for (const char* stage : {"score", "select", "transfer", "install"}) {
    EXPECT_THAT(after,
                ::testing::Not(HasSubstr(absl::StrCat(
                    "varve_recall_stage_duration_seconds_count{stage=\"", stage, "\"} 0\n"))));
  }
  EXPECT_THAT(after, ::testing::Not(HasSubstr("varve_digest_stream_lag_seconds_count 0\n")));
  // The page that the ninth step sealed is saved in the background.
  EXPECT_TRUE(Eventually([&] {
    return metrics.Render().find("varve_worker_saved_objects_total{result=\"stored\"} 62") !=
           std::string::npos;
  }));
  EXPECT_THAT(after, HasSubstr("varve_worker_sequences 1"));
  EXPECT_THAT(after, HasSubstr("varve_worker_pool_pages 1024"));
}

TEST(Worker, RefusesBadOptions) {
  FakeClient client;
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.geometry.head_dim = 33;
  EXPECT_THAT(std::string(worker::Worker::Create(options, &client).status().message()),
              HasSubstr("head_dim is 33"));
  options.geometry = kShape;
  options.pool_bytes = 10 * kShape.page_bytes();
  EXPECT_THAT(std::string(worker::Worker::Create(options, &client).status().message()),
              HasSubstr("at least 64 pages"));
  EXPECT_EQ(worker::Worker::Create(options, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Paths, WorkerFaults,
                         ::testing::Values(RecallPath::kWorker, RecallPath::kStore),
                         [](const auto& info) {
                           return info.param == RecallPath::kStore ? "StorePath" : "WorkerPath";
                         });

}  // namespace
}  // namespace varve::testing
