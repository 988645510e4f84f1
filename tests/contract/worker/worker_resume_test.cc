// Contexts that are resumed with what was hot when they were parked, for every form of the worker.
#include "tests/contract/worker/worker_contract.h"

namespace varve::testing {
namespace {

using worker::AttendItem;
using worker::SequenceStats;

constexpr uint32_t kPrompt = 400, kSteps = 10;

class Resumed : public WorkerContract {
 protected:
  void SetUp() override {
    WorkerContract::SetUp();
    worker::WorkerOptions options;
    options.geometry = kSmall;
    options.prefetch_patience = absl::Seconds(10);  // not the sidecar's
    for (auto* worker : {&first_, &second_}) {
      auto made = MakeWorker(GetParam(), store_.get(), options, 1024);
      ASSERT_OK(made.status());
      *worker = std::move(*made);
    }
  }
  // A first turn, up to its last step and not closed; all of its full pages are stored.
  void Talk(Feeder& feeder, const std::string& policy, const std::string& id) {
    ASSERT_OK(feeder.Open(policy, id));
    ASSERT_OK(feeder.Feed(kPrompt));
    ASSERT_OK(feeder.Finish());
    for (uint32_t step = 0; step < kSteps; ++step) ASSERT_OK(feeder.Step(step));
    const auto client = store_->Connect();
    ASSERT_OK(client.status());
    const std::vector<uint32_t> all(kSmall.num_layers, feeder.tokens() / kSmall.page_tokens);
    const absl::Time end = absl::Now() + absl::Seconds(30);
    while ((*client)->AttachContext(id)->digest_blocks != all) ASSERT_LT(absl::Now(), end);
    if (GetParam().store != "fake") ASSERT_OK((*client)->ParkContext(id).status());
  }
  // A second turn up to its first step, whose queries are those of the last step before it.
  void TalkOn(Feeder& feeder, const std::string& policy, const std::string& id,
              const std::string& resume) {
    ASSERT_OK(feeder.Open(policy, id, resume));
    ASSERT_OK(feeder.Feed(20));
    ASSERT_OK(feeder.Finish());
    ASSERT_OK(feeder.Step(kSteps - 1));
  }
  // All that it needed was there, unless the machine was too slow for the patience of a sidecar.
  static void ExpectHot(const Feeder& feeder) {
    const SequenceStats stats = feeder.Info().stats;
    EXPECT_GT(stats.prefetched_pages, 0u);
    EXPECT_GT(stats.prefetch_used_pages, 0u);
    EXPECT_TRUE(stats.recalled_pages == 0 || stats.prefetch_wait > absl::Milliseconds(10))
        << stats.recalled_pages;
    EXPECT_LE(stats.prefetch_used_pages + stats.prefetch_wasted_pages, stats.prefetched_pages);
  }
  static void ExpectCold(const Feeder& feeder) {
    EXPECT_EQ(feeder.Info().stats.prefetched_pages, 0u);
    EXPECT_GT(feeder.Info().stats.recalled_pages, 0u);
  }
  // Both go on alike, bit for bit.
  static void ExpectAlike(Feeder& a, Feeder& b) {
    EXPECT_EQ(a.tokens(), b.tokens());
    EXPECT_EQ(a.outputs(), b.outputs());
    EXPECT_EQ(a.lse(), b.lse());
    for (uint32_t step = 50; step < 60; ++step) {
      ASSERT_OK(a.Step(step));
      ASSERT_OK(b.Step(step));
      ASSERT_EQ(a.outputs(), b.outputs()) << step;
      ASSERT_EQ(a.lse(), b.lse()) << step;
    }
  }

  const std::string policy_ = "arkvale(budget=6p,hot=2)";
  const RandomText text_{kSmall, 31, kPrompt + 200};
  std::unique_ptr<WorkerUnderTest> first_, second_;
};

// In place and as a fork, with fixed and adaptive budgets. A fork of before the park is cold.
TEST_P(Resumed, TheFirstStepFindsWhatWasHot) {
  for (const std::string policy :
       {"arkvale(budget=6p,hot=2)", "arkvale(budget=6p,hot=2,target=0.9)"}) {
    SCOPED_TRACE(policy);
    const std::string id = policy == policy_ ? "chat" : "adaptive-chat";
    Feeder original(first_->worker(), &text_), cold(second_->worker(), &text_),
        forked(second_->worker(), &text_), same(first_->worker(), &text_);
    ASSERT_NO_FATAL_FAILURE(Talk(original, policy, id));
    ASSERT_NO_FATAL_FAILURE(TalkOn(cold, policy, "", id));
    ExpectCold(cold);
    ASSERT_OK(first_->worker()->Close(original.id()));
    ASSERT_NO_FATAL_FAILURE(TalkOn(forked, policy, "", id));
    ExpectHot(forked);
    ASSERT_NO_FATAL_FAILURE(ExpectAlike(forked, cold));
    ASSERT_NO_FATAL_FAILURE(TalkOn(same, policy, id, id));
    ExpectHot(same);
    for (Feeder* feeder : {&cold, &forked}) ASSERT_OK(second_->worker()->Close(feeder->id()));
    ASSERT_OK(first_->worker()->Close(same.id()));
  }
}

// A sequence that speculates goes on from there as one without a hot set does.
TEST_P(Resumed, WithSpeculation) {
  const std::string policy = "arkvale(budget=6p,hot=2,tau=1)";
  Feeder original(first_->worker(), &text_), cold(second_->worker(), &text_),
      hot(second_->worker(), &text_);
  ASSERT_NO_FATAL_FAILURE(Talk(original, policy, "chat"));
  ASSERT_NO_FATAL_FAILURE(TalkOn(cold, policy_, "", "chat"));
  ASSERT_OK(first_->worker()->Close(original.id()));
  ASSERT_NO_FATAL_FAILURE(TalkOn(hot, policy, "chat", "chat"));
  ExpectHot(hot);
  ASSERT_NO_FATAL_FAILURE(ExpectAlike(hot, cold));
}

// A warm start takes over what came for the resumption, and asks for what is missing yet.
TEST_P(Resumed, AndWarmedByQueries) {
  Feeder original(first_->worker(), &text_), cold(second_->worker(), &text_),
      warm(second_->worker(), &text_);
  ASSERT_NO_FATAL_FAILURE(Talk(original, policy_, "chat"));
  ASSERT_NO_FATAL_FAILURE(TalkOn(cold, policy_, "", "chat"));
  ASSERT_OK(first_->worker()->Close(original.id()));
  ASSERT_OK(warm.Open(policy_, "", "chat"));
  ASSERT_OK(warm.Feed(20));
  ASSERT_OK(warm.Finish());
  for (uint32_t l = 0; l < kSmall.num_layers; ++l) {
    const std::vector<float> q = text_.Query(l, kSteps - 1);
    const AttendItem item{warm.id(), q.data()};
    ASSERT_OK(second_->worker()->Warm(l, {&item, 1}));
  }
  ASSERT_OK(warm.Step(kSteps - 1));
  ExpectHot(warm);
  ASSERT_NO_FATAL_FAILURE(ExpectAlike(warm, cold));
}

// Of a context that was cut, and of a fork of a part of it, the hot pages that are left.
TEST_P(Resumed, AfterATruncate) {
  const auto client = store_->Connect();
  ASSERT_OK(client.status());
  Feeder original(first_->worker(), &text_), cold(second_->worker(), &text_),
      hot(second_->worker(), &text_);
  ASSERT_NO_FATAL_FAILURE(Talk(original, policy_, "chat"));
  ASSERT_OK((*client)->ForkContext("chat", "before", 0).status());
  ASSERT_OK(first_->worker()->Close(original.id()));
  for (const char* id : {"chat", "before"}) {
    ASSERT_OK((*client)->TruncateContext(id, 30).status());
  }
  const auto left = (*client)->AttachContext("chat");
  ASSERT_OK(left.status());
  EXPECT_FALSE(left->hot.empty());
  for (const client::HotPages& entry : left->hot) {
    for (const auto* pages : {&entry.attended, &entry.others}) {
      EXPECT_TRUE(pages->empty() || pages->back() < 30) << pages->back();
    }
  }
  ASSERT_NO_FATAL_FAILURE(TalkOn(cold, policy_, "", "before"));
  ExpectCold(cold);
  ASSERT_NO_FATAL_FAILURE(TalkOn(hot, policy_, "", "chat"));
  EXPECT_GT(hot.Info().stats.prefetch_used_pages, 0u);
  EXPECT_LT(hot.Info().stats.recalled_pages, cold.Info().stats.recalled_pages);
  ASSERT_NO_FATAL_FAILURE(ExpectAlike(hot, cold));
}

// What one leaves is bounded by its hot sets, lies in the context, and is left alone by who has
// nothing to say: one that recalls nothing, or that has made no step.
TEST_P(Resumed, WhatIsLeftInTheContext) {
  const auto client = store_->Connect();
  ASSERT_OK(client.status());
  Feeder original(first_->worker(), &text_);
  ASSERT_NO_FATAL_FAILURE(Talk(original, policy_, "chat"));
  ASSERT_OK(first_->worker()->Close(original.id()));
  const auto left = (*client)->AttachContext("chat");
  ASSERT_OK(left.status());
  ASSERT_EQ(left->hot.size(), kSmall.num_layers * kSmall.num_kv_heads);
  for (const client::HotPages& entry : left->hot) {
    // Those of the last step: the budget's, and the one full page that was generated.
    EXPECT_EQ(entry.attended.size(), 7u);
    EXPECT_EQ(entry.attended.back(), kPrompt / kSmall.page_tokens);
    EXPECT_LE(entry.attended.size() + entry.others.size(), 12u);
    EXPECT_FALSE(entry.others.empty());
  }
  Feeder full(first_->worker(), &text_), idle(second_->worker(), &text_);
  ASSERT_NO_FATAL_FAILURE(TalkOn(full, "full", "chat", "chat"));
  EXPECT_EQ(full.Info().stats.prefetched_pages, 0u);
  ASSERT_OK(first_->worker()->Close(full.id()));
  ASSERT_OK(idle.Open(policy_, "chat", "chat"));
  ASSERT_OK(idle.Feed(20));
  ASSERT_OK(idle.Finish());
  ASSERT_OK(second_->worker()->Close(idle.id()));
  EXPECT_EQ((*client)->AttachContext("chat")->hot, left->hot);
}

INSTANTIATE_TEST_SUITE_P(All, Resumed, ::testing::ValuesIn(AllSettings()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace varve::testing
