// Sequences that ask for the hot pages of a stored context ahead, from a store that is slow, fails
// or has lost them, and in a pool that has little room.

#include "gpu_worker/worker_metrics.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/eventually.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

using worker::RecallPath;
using worker::SequenceStats;

constexpr page::Geometry kShape{4, 2, 4, 32, 8, page::DType::kF32};
constexpr uint32_t kPrompt = 400;

class Resume : public ::testing::TestWithParam<RecallPath> {
 protected:
  void SetUp() override {
    worker_ = Make(2048);
    Feeder feeder(worker_.get(), &text_), cold(worker_.get(), &text_);
    ASSERT_OK(feeder.Open(policy_, "chat"));
    ASSERT_OK(feeder.Feed(kPrompt));
    ASSERT_OK(feeder.Finish());
    for (uint32_t step = 0; step < 5; ++step) ASSERT_OK(feeder.Step(step));
    TalkOn(cold, *worker_, &cold_);
    cold_recalled_ = cold.Info().stats.recalled_pages;
    ASSERT_OK(worker_->Close(cold.id()));
    ASSERT_OK(worker_->Close(feeder.id()));
  }
  std::unique_ptr<worker::Worker> Make(uint32_t pages,
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
  using Outputs = std::vector<std::vector<std::vector<float>>>;
  // A second turn in a fork: new tokens, then some steps.
  void TalkOn(Feeder& feeder, worker::Worker& worker, Outputs* outputs) {
    feeder = Feeder(&worker, &text_);
    ASSERT_OK(feeder.Open(policy_, "", "chat"));
    ASSERT_OK(feeder.Feed(16));
    ASSERT_OK(feeder.Finish());
    for (uint32_t step = 4; step < 10; ++step) {
      ASSERT_OK(feeder.Step(step));
      outputs->push_back(feeder.outputs());
    }
  }
  void ExpectAsCold(worker::Worker& worker, Feeder& feeder) {
    Outputs outputs;
    ASSERT_NO_FATAL_FAILURE(TalkOn(feeder, worker, &outputs));
    EXPECT_EQ(outputs, cold_);
  }
  double Wasted() const { return worker::WorkerMetrics(&metrics_).prefetch_wasted.Value(); }

  const std::string policy_ = "arkvale(budget=6p,hot=2)";
  const RandomText text_{kShape, 17, kPrompt + 200};
  mutable base::Metrics metrics_;
  FakeClient client_;
  std::unique_ptr<worker::Worker> worker_;
  Outputs cold_;
  uint64_t cold_recalled_ = 0;
};

TEST_P(Resume, ItIsAskedForWhenTheSequenceIsOpened) {
  const uint64_t before = client_.prefetch_calls();
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open(policy_, "", "chat"));
  EXPECT_TRUE(Eventually([&] { return client_.prefetch_calls() == before + 4; }))
      << "one for each quarter of the layers";
  EXPECT_EQ(feeder.Info().stats.recalled_pages, 0u);
  ASSERT_OK(worker_->Close(feeder.id()));
  // Never attended to: all of it wasted, and no slot lost.
  EXPECT_TRUE(Eventually([&] { return worker_->Status().free_pages == 2048; }));
  EXPECT_GT(Wasted(), 0);
}

TEST_P(Resume, WhatIsNotAttendedToIsWasted) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_NO_FATAL_FAILURE(ExpectAsCold(*worker_, feeder));
  const SequenceStats stats = feeder.Info().stats;
  EXPECT_GT(stats.prefetch_used_pages, 0u);
  EXPECT_LT(stats.recalled_pages, cold_recalled_);
  ASSERT_OK(worker_->Close(feeder.id()));
  EXPECT_EQ(Wasted(), static_cast<double>(stats.prefetched_pages - stats.prefetch_used_pages));
}

TEST_P(Resume, WhatFailsIsFetchedOnDemand) {
  client_.FailPrefetches(1000, absl::NotFoundError("no"));
  Feeder feeder(worker_.get(), &text_);
  ASSERT_NO_FATAL_FAILURE(ExpectAsCold(*worker_, feeder));
  EXPECT_EQ(feeder.Info().stats.prefetched_pages, 0u);
  EXPECT_EQ(feeder.Info().stats.recalled_pages, cold_recalled_);
  ASSERT_OK(worker_->Close(feeder.id()));
  EXPECT_TRUE(Eventually([&] { return worker_->Status().free_pages == 2048; }));
}

// One layer waits in vain, the others do not wait after it.
TEST_P(Resume, WhatIsLateIsWaitedForOnce) {
  const auto worker = Make(2048, absl::Milliseconds(100));
  client_.HoldPrefetches();
  Feeder feeder(worker.get(), &text_);
  ASSERT_NO_FATAL_FAILURE(ExpectAsCold(*worker, feeder));
  const SequenceStats stats = feeder.Info().stats;
  EXPECT_GE(stats.prefetch_wait, absl::Milliseconds(100));
  EXPECT_LT(stats.prefetch_wait, absl::Milliseconds(400)) << "one of four";
  EXPECT_EQ(stats.prefetched_pages, 0u);
  client_.ReleasePrefetches();
  ASSERT_OK(worker->Close(feeder.id()));
  EXPECT_TRUE(Eventually([&] { return worker->Status().free_pages == 2048; }));
}

// A page that is gone costs what the prefetch of it does; what it is, only the step that needs it
// says.
TEST_P(Resume, OnePageThatIsGone) {
  const auto& hot = client_.context("chat").hot;
  ASSERT_FALSE(hot.empty());
  ASSERT_FALSE(hot[0].others.empty());
  const uint32_t gone = hot[0].others.front();
  client_.Forget(*page::MakeObjectKey(client_.context("chat").hashes[gone], 0));
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open(policy_, "", "chat"));
  ASSERT_OK(feeder.Feed(16));
  ASSERT_OK(feeder.Finish());
  ASSERT_OK(feeder.Step(4));
  EXPECT_EQ(feeder.outputs(), cold_.front());
  EXPECT_EQ(feeder.Info().stats.recalled_pages, 0u);
}

// A pool that is small for the hot set: the prefill gets what it needs.
TEST_P(Resume, ThePrefillTakesTheSlotsBack) {
  for (const uint32_t pages : {96u, 112u, 128u, 160u}) {
    SCOPED_TRACE(pages);
    const auto worker = Make(pages);
    Feeder feeder(worker.get(), &text_);
    ASSERT_OK(feeder.Open(policy_, "", "chat"));
    ASSERT_OK(feeder.Feed(120, 8));
    ASSERT_OK(feeder.Finish());
    ASSERT_OK(feeder.Step(4));
    ASSERT_OK(worker->Close(feeder.id()));
    EXPECT_TRUE(Eventually([&] { return worker->Status().free_pages == pages; }));
  }
}

// A sequence that is resumed and then left alone keeps no more than half of the pool from others.
TEST_P(Resume, AnIdleSequenceLeavesRoomForOthers) {
  const auto worker = Make(120);
  Feeder idle(worker.get(), &text_), other(worker.get(), &text_);
  ASSERT_OK(idle.Open(policy_, "", "chat"));
  EXPECT_GE(worker->Status().free_pages, 60u);
  ASSERT_OK(other.Prefill("arkvale(budget=4p,hot=1)", 200, 8));
  for (uint32_t step = 0; step < 3; ++step) ASSERT_OK(other.Step(step));
}

// What the store may still write into rests, but that is half of the pool at most.
TEST_P(Resume, AStoreThatIsAwayForAMomentTakesNotAllSlots) {
  const auto worker = Make(120);
  client_.FailPrefetches(4, absl::UnavailableError("away"));
  const uint64_t before = client_.prefetch_calls();
  Feeder feeder(worker.get(), &text_);
  ASSERT_OK(feeder.Open(policy_, "", "chat"));
  EXPECT_TRUE(Eventually([&] { return client_.prefetch_calls() == before + 4; }));
  EXPECT_GE(worker->Status().free_pages, 60u);
  ASSERT_OK(feeder.Feed(16, 8));
  ASSERT_OK(feeder.Finish());
  ASSERT_OK(feeder.Step(4));
  EXPECT_EQ(feeder.outputs(), cold_.front());
}

TEST_P(Resume, AStoreThatWasRestartedHasForgottenIt) {
  client_.RestartWithAll();
  Feeder feeder(worker_.get(), &text_);
  ASSERT_NO_FATAL_FAILURE(ExpectAsCold(*worker_, feeder));
  EXPECT_EQ(feeder.Info().stats.prefetched_pages, 0u);
}

// The store goes away between the opening and the first step, and comes back with all it had.
TEST_P(Resume, AStoreThatRestartsMeanwhile) {
  client_.HoldPrefetches();
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open(policy_, "", "chat"));
  ASSERT_OK(feeder.Feed(16));
  client_.Stop();
  client_.ReleasePrefetches();
  client_.RestartWithAll();
  ASSERT_OK(feeder.Finish());
  ASSERT_OK(feeder.Step(4));
  EXPECT_EQ(feeder.outputs(), cold_.front());
}

// Somebody has cut the context under its worker: it is parked, without the pages it has lost.
TEST_P(Resume, AContextThatWasCutIsParkedAllTheSame) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open(policy_, "chat", "chat"));
  ASSERT_OK(feeder.Feed(16));
  ASSERT_OK(feeder.Finish());
  ASSERT_OK(feeder.Step(4));
  ASSERT_OK(client_.TruncateContext("chat", 10).status());
  worker_->Close(feeder.id()).IgnoreError();
  EXPECT_TRUE(client_.context("chat").parked);
}

INSTANTIATE_TEST_SUITE_P(Paths, Resume, ::testing::Values(RecallPath::kWorker, RecallPath::kStore),
                         [](const auto& info) {
                           return info.param == RecallPath::kStore ? "Store" : "Worker";
                         });

}  // namespace
}  // namespace varve::testing
