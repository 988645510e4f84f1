// Speculation against a store whose prefetches are slow, fail, or come when nobody wants them.
#include "gpu_worker/speculation.h"

#include <random>
#include <thread>

#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/eventually.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

using worker::RecallPath;
using worker::SequenceStats;

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};
constexpr uint32_t kPrompt = 400;
constexpr uint64_t kHeadsOfAStep = uint64_t{kShape.num_layers} * kShape.num_kv_heads;

TEST(MeanCosine, IsTheGroupsMean) {
  const std::vector<float> a = {1, 0, 0, 2}, same = {3, 0, 0, 1}, opposite = {-1, 0, 0, 1},
                           across = {0, 1, 0, 1}, zero = {0, 0, 0, 0};
  EXPECT_DOUBLE_EQ(worker::MeanCosine(a.data(), same.data(), 2, 2), 1);
  EXPECT_DOUBLE_EQ(worker::MeanCosine(a.data(), opposite.data(), 2, 2), 0);
  EXPECT_DOUBLE_EQ(worker::MeanCosine(a.data(), across.data(), 2, 2), 0.5);
  EXPECT_DOUBLE_EQ(worker::MeanCosine(a.data(), zero.data(), 2, 2), 0);
  EXPECT_DOUBLE_EQ(worker::MeanCosine(zero.data(), zero.data(), 2, 2), 1);
}

class SpeculationFaults : public ::testing::TestWithParam<RecallPath> {
 protected:
  std::unique_ptr<worker::Worker> Make(uint32_t pages = 1024,
                                       absl::Duration patience = absl::Seconds(10)) {
    worker::WorkerOptions options;
    options.geometry = kShape;
    options.pool_bytes = pages * kShape.page_bytes();
    options.recall_path = GetParam();
    options.step_deadline = absl::Seconds(5);
    options.prefetch_patience = patience;
    options.metrics = &metrics_;
    auto made = worker::Worker::Create(options, &client_);
    EXPECT_TRUE(made.ok()) << made.status();
    return std::move(*made);
  }
  // Outputs of as many steps without speculation.
  void Plain(uint32_t steps, std::vector<std::vector<std::vector<float>>>* outputs) {
    const auto worker = Make();
    Feeder feeder(worker.get(), &text_);
    ASSERT_OK(feeder.Prefill("arkvale(budget=5p,hot=1.5)", kPrompt));
    for (uint32_t step = 0; step < steps; ++step) {
      ASSERT_OK(feeder.Step(step));
      outputs->push_back(feeder.outputs());
    }
    ASSERT_OK(worker->Close(feeder.id()));
  }
  double Wasted() const {
    return worker::WorkerMetrics(&metrics_).prefetch_wasted.Value();
  }

  const std::string policy_ = "arkvale(budget=5p,hot=1.5,tau=-1)";
  const RandomText text_{kShape, 11, kPrompt + 200};
  mutable base::Metrics metrics_;
  FakeClient client_;
};

// A prefetch that fails leaves its heads to the demand path, with the present queries.
TEST_P(SpeculationFaults, AFailedPrefetchIsFetchedOnDemand) {
  std::vector<std::vector<std::vector<float>>> plain;
  Plain(20, &plain);
  const auto worker = Make();
  Feeder feeder(worker.get(), &text_);
  ASSERT_OK(feeder.Prefill(policy_, kPrompt));
  client_.FailPrefetches(1000, absl::NotFoundError("no"));
  if (GetParam() == RecallPath::kStore) {
    for (uint32_t step = 0; step < 20; ++step) {
      ASSERT_OK(feeder.Step(step));
      // A step that selected on demand leaves its selection to the next one.
      if (step % 2 == 0) {
        ASSERT_EQ(feeder.outputs(), plain[step]) << step;
      }
    }
    EXPECT_EQ(feeder.Info().stats.kept_heads, 10 * kHeadsOfAStep);
    EXPECT_EQ(feeder.Info().stats.late_heads, 9 * kHeadsOfAStep);
  } else {
    // The selection was made here: only the pages are missing, and are fetched.
    for (uint32_t step = 0; step < 20; ++step) ASSERT_OK(feeder.Step(step));
    EXPECT_EQ(feeder.Info().stats.late_heads, 0u);
    EXPECT_GT(feeder.Info().stats.recalled_pages, 20u);
  }
  EXPECT_GT(client_.prefetch_calls(), 0u);
  EXPECT_EQ(feeder.Info().stats.prefetched_pages, 0u);
  ASSERT_OK(worker->Close(feeder.id()));
  EXPECT_TRUE(Eventually([&] { return worker->Status().free_pages == 1024; }));
}

// After this error the store may still write into the slots: they rest, and the step goes on.
TEST_P(SpeculationFaults, SlotsOfABrokenPrefetchRest) {
  const auto worker = Make();
  Feeder feeder(worker.get(), &text_);
  ASSERT_OK(feeder.Prefill(policy_, kPrompt));
  ASSERT_OK(feeder.Step(0));
  client_.FailPrefetches(1000, absl::UnavailableError("gone"));
  for (uint32_t step = 1; step < 10; ++step) ASSERT_OK(feeder.Step(step));
  ASSERT_OK(worker->Close(feeder.id()));
  ASSERT_TRUE(Eventually([&] { return client_.prefetch_calls() > 2; }));
  EXPECT_LT(worker->Status().free_pages, 1024u);
}

// A layer waits for its prefetch no longer than it is told to; what comes later is wasted, and its
// slots come back.
TEST_P(SpeculationFaults, ALatePrefetchIsGivenUp) {
  std::vector<std::vector<std::vector<float>>> plain;
  Plain(4, &plain);
  const auto worker = Make(1024, absl::Milliseconds(1));
  Feeder feeder(worker.get(), &text_);
  ASSERT_OK(feeder.Prefill(policy_, kPrompt));
  client_.HoldPrefetches();
  for (uint32_t step = 0; step < 4; ++step) {
    ASSERT_OK(feeder.Step(step));
    if (GetParam() == RecallPath::kStore && step % 2 == 0) {
      ASSERT_EQ(feeder.outputs(), plain[step]) << step;
    }
  }
  const SequenceStats stats = feeder.Info().stats;
  EXPECT_EQ(stats.late_heads, GetParam() == RecallPath::kStore ? kHeadsOfAStep : 0);
  EXPECT_GE(stats.prefetch_wait, absl::Milliseconds(1));
  EXPECT_EQ(stats.prefetch_used_pages, 0u);
  client_.ReleasePrefetches();
  ASSERT_OK(worker->Close(feeder.id()));
  EXPECT_TRUE(Eventually([&] { return worker->Status().free_pages == 1024; }));
}

// P12, P13: a sequence may be closed while pages for it are on their way; they land in slots that
// nobody else has.
TEST_P(SpeculationFaults, ASequenceIsClosedWithAPrefetchUnderWay) {
  const auto worker = Make(300);
  for (uint32_t round = 0; round < 5; ++round) {
    Feeder feeder(worker.get(), &text_), other(worker.get(), &text_);
    ASSERT_OK(feeder.Prefill(policy_, kPrompt));
    ASSERT_OK(feeder.Step(0));  // selects on demand: nothing is asked for
    client_.HoldPrefetches();
    ASSERT_OK(feeder.Step(1));
    ASSERT_TRUE(Eventually([&] { return client_.held_prefetches() > 0; }));
    ASSERT_OK(worker->Close(feeder.id()));
    ASSERT_OK(other.Prefill("arkvale(budget=5p,hot=1.5)", kPrompt));
    std::thread release([&] { client_.ReleasePrefetches(); });
    for (uint32_t step = 0; step < 10; ++step) {
      ASSERT_OK(other.Step(step));
      for (uint32_t l = 0; l < kShape.num_layers; ++l) {
        const std::vector<float> q = text_.Query(l, step);
        const auto pages = NaivePages(text_, *worker::ParsePolicy("arkvale(budget=5p)"),
                                      page::DigestKind::kMinMax, l, q, kPrompt, other.tokens());
        const NaiveResult truth = NaiveAttention(text_, l, q, other.tokens(), pages);
        EXPECT_LE(RelativeError(other.outputs()[l], truth.out), 2e-5);
      }
    }
    release.join();
    ASSERT_OK(worker->Close(other.id()));
    ASSERT_TRUE(Eventually([&] { return worker->Status().free_pages == 300; }));
  }
}

TEST_P(SpeculationFaults, TheWorkerEndsWithAPrefetchUnderWay) {
  auto worker = Make();
  Feeder feeder(worker.get(), &text_);
  ASSERT_OK(feeder.Prefill(policy_, kPrompt));
  ASSERT_OK(feeder.Step(0));
  client_.HoldPrefetches();
  ASSERT_OK(feeder.Step(1));
  ASSERT_TRUE(Eventually([&] { return client_.held_prefetches() > 0; }));
  std::thread release([&] { client_.ReleasePrefetches(); });
  worker.reset();
  release.join();
}

// Slots that wait for pages of the next step do not make a sequence fail for want of slots.
TEST_P(SpeculationFaults, APrefetchGivesWayToNewTokens) {
  const auto worker = Make(64);
  Feeder feeder(worker.get(), &text_);
  ASSERT_OK(feeder.Prefill("arkvale(budget=5p,hot=1,tau=-1,ahead=1)", kPrompt));
  for (uint32_t step = 0; step < 60; ++step) {
    const absl::Status status = feeder.Step(step);
    if (status.ok()) continue;
    // The generated pages have filled the pool: with all of its slots.
    ASSERT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_GE(feeder.tokens(), kPrompt + 40u);
    break;
  }
}

// What was fetched ahead and never attended to is counted as wasted when it leaves.
TEST_P(SpeculationFaults, WasteIsCountedAndBounded) {
  const auto worker = Make();
  Feeder feeder(worker.get(), &text_);
  ASSERT_OK(feeder.Prefill("arkvale(budget=8p,hot=1,tau=0.5)", kPrompt));
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  // Two steps in about one direction, so that pages are fetched ahead, then another direction.
  for (uint32_t step = 0; step < 60; ++step) {
    for (uint32_t l = 0; l < kShape.num_layers; ++l) {
      std::vector<float> q = text_.Query(l, step / 3);
      for (float& x : q) x += 0.5f * normal(random);
      std::vector<float> out(q.size());
      const worker::AttendItem item{feeder.id(), q.data(), out.data()};
      ASSERT_OK(worker->Attend(l, {&item, 1}));
    }
  }
  const SequenceStats stats = feeder.Info().stats;
  EXPECT_GT(stats.kept_heads, 0u);
  EXPECT_GT(stats.corrected_heads, 0u);
  EXPECT_GT(stats.prefetch_used_pages, 0u);
  EXPECT_GT(stats.prefetch_wasted_pages, 0u);
  EXPECT_LE(stats.prefetch_used_pages + stats.prefetch_wasted_pages, stats.prefetched_pages);
  EXPECT_LE(stats.prefetched_pages, 60 * kHeadsOfAStep * 2);
  EXPECT_EQ(Wasted(), static_cast<double>(stats.prefetch_wasted_pages));
}

// One request for the layers that share it.
TEST_P(SpeculationFaults, LayersShareARequest) {
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.geometry.num_layers = 6;
  options.pool_bytes = 1024 * kShape.page_bytes();
  options.recall_path = GetParam();
  options.prefetch_layers = 3;
  options.prefetch_patience = absl::Seconds(10);
  const RandomText text(options.geometry, 5, kPrompt);
  const auto worker = *worker::Worker::Create(options, &client_);
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Prefill(policy_, kPrompt));
  ASSERT_OK(feeder.Attend(0));
  EXPECT_EQ(client_.prefetch_calls(), 0u);  // selected on demand, nothing is missing
  for (uint32_t step = 1; step < 6; ++step) ASSERT_OK(feeder.Attend(step));
  ASSERT_TRUE(Eventually([&] { return client_.prefetch_calls() >= 10; }));
  ASSERT_OK(worker->Close(feeder.id()));
  EXPECT_EQ(client_.prefetch_calls(), 10u);
}

// One request a step for the whole batch, where the worker selects.
TEST_P(SpeculationFaults, SequencesOfABatchShareARequest) {
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.pool_bytes = 1024 * kShape.page_bytes();
  options.recall_path = GetParam();
  options.prefetch_layers = kShape.num_layers;
  options.prefetch_patience = absl::Seconds(10);
  const auto worker = *worker::Worker::Create(options, &client_);
  std::vector<Feeder> feeders(3, Feeder(worker.get(), &text_));
  for (Feeder& feeder : feeders) ASSERT_OK(feeder.Prefill(policy_, kPrompt));
  constexpr uint32_t kSteps = 6;
  for (uint32_t step = 0; step < kSteps; ++step) {
    for (uint32_t l = 0; l < kShape.num_layers; ++l) {
      const std::vector<float> q = text_.Query(l, step);
      std::vector<float> out(feeders.size() * q.size());
      std::vector<worker::AttendItem> items;
      for (const Feeder& feeder : feeders) {
        items.push_back({feeder.id(), q.data(), &out[items.size() * q.size()]});
      }
      ASSERT_OK(worker->Attend(l, items));
    }
  }
  // The first step selects on demand, so that nothing is missing for the second.
  const uint64_t requests =
      (kSteps - 1) * (GetParam() == RecallPath::kStore ? feeders.size() : 1);
  ASSERT_TRUE(Eventually([&] { return client_.prefetch_calls() >= requests; }));
  for (const Feeder& feeder : feeders) {
    EXPECT_GT(feeder.Info().stats.prefetched_pages, 0u);
    ASSERT_OK(worker->Close(feeder.id()));
  }
  EXPECT_EQ(client_.prefetch_calls(), requests);
}

INSTANTIATE_TEST_SUITE_P(Paths, SpeculationFaults,
                         ::testing::Values(RecallPath::kWorker, RecallPath::kStore),
                         [](const auto& info) {
                           return info.param == RecallPath::kStore ? "Store" : "Worker";
                         });

}  // namespace
}  // namespace varve::testing
