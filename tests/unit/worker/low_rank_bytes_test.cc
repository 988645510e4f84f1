// What policy shadowkv moves: the values of what it recalls, and of what it fetches ahead.
#include <string>

#include "absl/strings/str_cat.h"
#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/eventually.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

using worker::RecallPath;

constexpr uint32_t kPrompt = 400, kSteps = 40;

page::Geometry Turned() {
  page::Geometry g{2, 2, 4, 32, 8, page::DType::kF32};
  g.rope = page::RopeParameters{.theta = 10000, .rotary_dim = 32};
  return g;
}

class LowRankBytes : public ::testing::TestWithParam<RecallPath> {
 protected:
  std::unique_ptr<worker::Worker> Make() {
    worker::WorkerOptions options;
    options.geometry = Turned();
    options.pool_bytes = 1024 * Turned().page_bytes();
    options.recall_path = GetParam();
    options.prefetch_patience = absl::Seconds(10);
    auto made = worker::Worker::Create(options, &client_);
    EXPECT_TRUE(made.ok()) << made.status();
    return std::move(*made);
  }

  const RandomText text_{Turned(), 23, kPrompt + kSteps};
  FakeClient client_;
};

TEST_P(LowRankBytes, AreHalfOfThoseOfWholePages) {
  for (const std::string tau : {"", ",tau=-1,ahead=1"}) {
    for (const std::string kind : {"arkvale(", "shadowkv(rank=20,outliers=0.5,"}) {
      SCOPED_TRACE(kind + tau);
      const auto worker = Make();
      Feeder feeder(worker.get(), &text_);
      ASSERT_OK(feeder.Prefill(absl::StrCat(kind, "budget=5p,hot=1.5,generated=pinned", tau, ")"),
                               kPrompt));
      const uint64_t before = client_.fetched_bytes();
      for (uint32_t step = 0; step < kSteps; ++step) ASSERT_OK(feeder.Step(step));
      const size_t page = kind == "arkvale(" ? Turned().page_bytes() : Turned().part_bytes();
      const worker::SequenceStats stats = feeder.Info().stats;
      EXPECT_GT(stats.recalled_pages, 0u);
      EXPECT_EQ(stats.recalled_bytes, stats.recalled_pages * page);
      EXPECT_EQ(stats.prefetched_pages > 0, !tau.empty());
      ASSERT_OK(worker->Close(feeder.id()));
      ASSERT_TRUE(Eventually([&] { return worker->Status().free_pages == 1024; }));
      const uint64_t moved = client_.fetched_bytes() - before;
      // What was on its way at the end is of the same pages.
      EXPECT_EQ(moved % page, 0u);
      EXPECT_GE(moved, (stats.recalled_pages + stats.prefetched_pages) * page);
      EXPECT_LE(moved, (stats.recalled_pages + stats.prefetched_pages + 4 * 5) * page);
    }
  }
}

// Outliers and the first page, which a resumed sequence lacks, come whole and stay.
TEST_P(LowRankBytes, WhatKeepsItsKeysComesWhole) {
  const std::string policy =
      "shadowkv(rank=20,outliers=0.5,budget=5p,hot=1,sinks=1,generated=pinned)";
  const auto worker = Make();
  Feeder first(worker.get(), &text_), second(worker.get(), &text_);
  ASSERT_OK(first.Open(policy, "chat"));
  ASSERT_OK(first.Feed(kPrompt));
  ASSERT_OK(first.Finish());
  ASSERT_OK(worker->Close(first.id()));
  ASSERT_OK(second.Open(policy, "chat", "chat"));
  second.set_tokens(kPrompt);
  ASSERT_OK(second.Finish());
  const uint64_t before = client_.fetched_bytes();
  for (uint32_t step = 0; step < kSteps; ++step) ASSERT_OK(second.Step(step));
  const worker::SequenceStats stats = second.Info().stats;
  EXPECT_EQ(client_.fetched_bytes() - before, stats.recalled_bytes);
  // Of 2 layers and 2 KV heads: the first page, the last one and 3 outliers (of which these may
  // be).
  const size_t part = Turned().part_bytes();
  EXPECT_GE(stats.recalled_bytes, (stats.recalled_pages + 4 * 3) * part);
  EXPECT_LE(stats.recalled_bytes, (stats.recalled_pages + 4 * 5) * part);
}

INSTANTIATE_TEST_SUITE_P(Paths, LowRankBytes,
                         ::testing::Values(RecallPath::kWorker, RecallPath::kStore),
                         [](const auto& info) {
                           return info.param == RecallPath::kWorker ? "Worker" : "Store";
                         });

}  // namespace
}  // namespace varve::testing
