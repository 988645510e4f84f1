// Keys that a step rebuilds: also for one that fails, and as a stage that is timed.
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

using ::testing::HasSubstr;

using worker::RecallPath;

worker::WorkerOptions Turned() {
  worker::WorkerOptions options;
  options.geometry = {2, 2, 4, 32, 8, page::DType::kF32};
  options.geometry.rope = page::RopeParameters{.theta = 10000, .rotary_dim = 32};
  options.pool_bytes = 1024 * options.geometry.page_bytes();
  return options;
}

class FailedStep : public ::testing::TestWithParam<RecallPath> {};

// Pages that came for a step that failed are what they would be: their keys too.
TEST_P(FailedStep, WhatCameForItIsWhole) {
  const RandomText text(Turned().geometry, 18, 300);
  FakeClient clients[2];
  std::unique_ptr<worker::Worker> workers[2];
  std::vector<Feeder> feeders;
  for (int i = 0; i < 2; ++i) {
    worker::WorkerOptions options = Turned();
    options.recall_path = GetParam();
    auto made = worker::Worker::Create(options, &clients[i]);
    ASSERT_OK(made.status());
    workers[i] = *std::move(made);
    feeders.emplace_back(workers[i].get(), &text);
    ASSERT_OK(feeders[i].Prefill("shadowkv(budget=6p,hot=2,rank=16,outliers=0)", 240));
    ASSERT_OK(feeders[i].Attend(0));  // keys that leave the window are read here
  }
  const FakeContext context = clients[1].context(feeders[1].Info().context_id);
  for (const uint32_t page : {5u, 11u}) {
    clients[1].Forget(*page::MakeObjectKey(context.hashes[page], 0));
  }
  int failed = 0, whole = 0;
  for (uint32_t step = 1; step < 60; ++step) {
    ASSERT_OK(feeders[0].Attend(step));
    if (!feeders[1].Attend(step).ok()) {
      ++failed;
      continue;
    }
    ++whole;
    EXPECT_EQ(feeders[0].outputs(), feeders[1].outputs()) << step;
  }
  EXPECT_GT(failed, 5);
  EXPECT_GT(whole, 5);
}

INSTANTIATE_TEST_SUITE_P(Paths, FailedStep,
                         ::testing::Values(RecallPath::kWorker, RecallPath::kStore),
                         [](const auto& info) {
                           return info.param == RecallPath::kStore ? "Store" : "Worker";
                         });

TEST(RebuiltKeys, AreAStageOfTheirOwn) {
  worker::WorkerOptions options = Turned();
  const RandomText text(options.geometry, 16, 300);
  FakeClient client;
  base::Metrics metrics;
  options.metrics = &metrics;
  auto made = worker::Worker::Create(options, &client);
  ASSERT_OK(made.status());
  const auto rebuilt = [&](const char* count) {
    return absl::StrCat("varve_recall_stage_duration_seconds_count{stage=\"rebuild\"} ", count,
                        "\n");
  };
  Feeder exact((*made).get(), &text);
  ASSERT_OK(exact.Prefill("arkvale(budget=4p,hot=1)", 240));
  for (uint32_t step = 0; step < 5; ++step) ASSERT_OK(exact.Step(step));
  EXPECT_THAT(metrics.Render(), HasSubstr(rebuilt("0")));
  EXPECT_THAT(metrics.Render(), HasSubstr("varve_worker_attention_duration_seconds_count 10\n"));
  Feeder low_rank((*made).get(), &text);
  ASSERT_OK(low_rank.Prefill("shadowkv(budget=4p,hot=1,rank=16,outliers=0)", 240));
  for (uint32_t step = 0; step < 5; ++step) ASSERT_OK(low_rank.Step(step));
  EXPECT_GT(low_rank.Info().stats.recalled_pages, 0u);
  EXPECT_THAT(metrics.Render(), ::testing::Not(HasSubstr(rebuilt("0"))));
}

}  // namespace
}  // namespace varve::testing
