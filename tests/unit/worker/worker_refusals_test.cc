// The worker and a store that does not take its pages for a while, or does not answer a recall.

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/eventually.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

using worker::RecallPath;

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};

class WorkerRefusals : public ::testing::TestWithParam<RecallPath> {
 protected:
  static std::unique_ptr<worker::Worker> Make(
      FakeClient* client, uint32_t pages,
      std::shared_ptr<worker::ContextsInUse> contexts = std::make_shared<worker::ContextsInUse>()) {
    worker::WorkerOptions options;
    options.contexts = std::move(contexts);
    options.geometry = kShape;
    options.pool_bytes = pages * kShape.page_bytes();
    options.recall_path = GetParam();
    options.transfer_deadline = absl::Milliseconds(50);
    auto made = worker::Worker::Create(options, client);
    EXPECT_TRUE(made.ok()) << made.status();
    return std::move(*made);
  }
};

// The store has the keys: who scores here cannot rank by them.
TEST_P(WorkerRefusals, ASecondStageNeedsTheStore) {
  FakeClient client;
  const auto worker = Make(&client, 128);
  worker::SequenceOptions options;
  options.policy = *worker::ParsePolicy("arkvale(rerank=exact)");
  const absl::Status opened = worker->Open(options).status();
  if (GetParam() == RecallPath::kStore) {
    EXPECT_TRUE(opened.ok()) << opened;
  } else {
    EXPECT_EQ(opened.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(opened.message()), ::testing::HasSubstr("recall_path store"));
  }
}

// Pages that the store did not take while decoding are saved in the same session once it does, and
// may leave then; steps do not wait for it.
TEST_P(WorkerRefusals, RefusedPagesAreSavedLaterWithoutANewSession) {
  const RandomText text(kShape, 36, 600);
  for (const bool full : {true, false}) {
    SCOPED_TRACE(full ? "full" : "draining");
    FakeClient client;
    const auto worker = Make(&client, 128);
    Feeder feeder(worker.get(), &text);
    ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1,generated=paged)", 240));
    if (full) {
      client.RefusePuts(100000);
    } else {
      client.FailPuts(100000, absl::UnavailableError("the store is draining"));
    }
    uint32_t step = 0;
    // Blocks 30 to 37 seal in both layers, and stay.
    for (; step < 64; ++step) ASSERT_OK(feeder.Step(step));
    EXPECT_EQ(client.objects(), 60u);
    client.RefusePuts(0);
    client.FailPuts(0, absl::OkStatus());
    client.HoldPuts();
    EXPECT_TRUE(Eventually([&] { return feeder.Attend(step).ok() && client.held_puts() > 0; }));
    for (; step < 70; ++step) ASSERT_OK(feeder.Attend(step));  // answered or not
    client.ReleasePuts();
    EXPECT_TRUE(Eventually(
        [&] { return feeder.Attend(++step).ok() && feeder.Info().stats.saved_objects == 76; }));
    EXPECT_EQ(client.objects(), 76u);
    EXPECT_EQ(client.context(feeder.Info().context_id).digest_blocks,
              (std::vector<uint32_t>{38, 38}));
    // More pages than the pool holds: they make room.
    for (uint32_t i = 0; i < 200; ++i) ASSERT_OK(feeder.Step(++step));
  }
}

// A context of another shape cannot be resumed: the fork is gone then, and what was attached in
// place is parked as before.
TEST_P(WorkerRefusals, AFailedResumeLeavesNothingBehind) {
  const RandomText text(kShape, 38, 300);
  FakeClient client;
  const auto worker = Make(&client, 128);
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Open("full", "stored"));
  ASSERT_OK(feeder.Feed(64));
  ASSERT_OK(worker->Close(feeder.id()));
  ASSERT_TRUE(client.context("stored").parked);
  worker::WorkerOptions options;
  options.geometry = kShape;
  options.digest_kind = page::DigestKind::kMean;
  options.pool_bytes = 64 * kShape.page_bytes();
  auto other = worker::Worker::Create(options, &client);
  ASSERT_TRUE(other.ok()) << other.status();
  Feeder wrong(other->get(), &text);
  EXPECT_EQ(wrong.Open("full", "fork", "stored").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(client.has_context("fork"));
  EXPECT_EQ(wrong.Open("full", "stored", "stored").code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(client.context("stored").parked);
  // A name that was taken is not this sequence's to drop.
  EXPECT_EQ(feeder.Open("full", "stored", "stored").code(), absl::StatusCode::kOk);
  ASSERT_OK(worker->Close(feeder.id()));
  ASSERT_OK(client.ForkContext("stored", "fork", 0).status());
  EXPECT_EQ(feeder.Open("full", "fork", "stored").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(client.has_context("fork"));
}

// Keys that were turned otherwise are no keys of this worker's; who does not say how is trusted.
TEST_P(WorkerRefusals, AContextOfOtherRopeParametersIsNotContinued) {
  const RandomText text(kShape, 39, 300);
  FakeClient client;
  const auto make = [&](double theta) {
    worker::WorkerOptions options;
    options.geometry = kShape;
    if (theta != 0) options.geometry.rope = {.theta = theta, .rotary_dim = 32};
    options.pool_bytes = 128 * kShape.page_bytes();
    options.recall_path = GetParam();
    auto made = worker::Worker::Create(options, &client);
    EXPECT_TRUE(made.ok()) << made.status();
    return std::move(*made);
  };
  const auto known = make(10000), other = make(500000), silent = make(0);
  for (worker::Worker* first : {known.get(), silent.get()}) {
    const std::string stored = first == known.get() ? "known" : "silent";
    Feeder feeder(first, &text);
    ASSERT_OK(feeder.Open("full", stored));
    ASSERT_OK(feeder.Feed(64));
    ASSERT_OK(first->Close(feeder.id()));
    for (worker::Worker* second : {known.get(), other.get(), silent.get()}) {
      Feeder next(second, &text);
      const absl::Status opened = next.Open("full", stored, stored);
      if (first == known.get() && second == other.get()) {
        EXPECT_EQ(opened.code(), absl::StatusCode::kFailedPrecondition);
        EXPECT_THAT(
            std::string(opened.message()),
            ::testing::HasSubstr("its keys have the RoPE parameters theta 10000 d32 rotate_half "
                                 "none angles f32 table f32 rotation f32, this worker's theta "
                                 "500000 d32 rotate_half none angles f32 table f32 rotation f32"));
        continue;
      }
      ASSERT_OK(opened);
      ASSERT_OK(second->Close(next.id()));
    }
    EXPECT_EQ(client.context(stored).geometry.rope.has_value(), first == known.get())
        << "who continues a context does not change it";
  }
}

// What a sequence works on is not attached a second time: the refusal, or the end of the second
// sequence, would give up the first one's pages.
TEST_P(WorkerRefusals, AContextInUseIsNotResumedInPlace) {
  const RandomText text(kShape, 40, 600);
  FakeClient client;
  const auto contexts = std::make_shared<worker::ContextsInUse>();
  const auto worker = Make(&client, 256, contexts);
  const auto other = Make(&client, 128, contexts);
  Feeder first(worker.get(), &text);
  ASSERT_OK(first.Open("arkvale(budget=4p,hot=1)", "shared"));
  ASSERT_OK(first.Feed(240));
  ASSERT_OK(first.Finish());
  for (worker::Worker* engine : {worker.get(), other.get()}) {
    Feeder second(engine, &text);
    EXPECT_EQ(second.Open("quest", "shared", "shared").code(),
              absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(second.Open("quest", "shared").code(), absl::StatusCode::kAlreadyExists);
    EXPECT_FALSE(client.context("shared").parked);
  }
  for (uint32_t step = 0; step < 20; ++step) ASSERT_OK(first.Step(step));
  Feeder fork(other.get(), &text);
  EXPECT_TRUE(Eventually([&] { return fork.Open("quest", "fork", "shared").ok(); }))
      << "once the last page's digests are there";
  ASSERT_OK(worker->Close(first.id()));
  EXPECT_TRUE(client.context("shared").parked);
  Feeder next(other.get(), &text);
  ASSERT_OK(next.Open("quest", "shared", "shared"));
}

// One layer's hot sets may hold what the pool has; another layer's next pages find room all the
// same.
TEST_P(WorkerRefusals, ALayerWithoutPagesGetsThemFromAFullPool) {
  const RandomText text(kShape, 39, 300);
  FakeClient client;
  const auto worker = Make(&client, 64);
  Feeder feeder(worker.get(), &text);
  const std::string policy = "arkvale(budget=6p,hot=8)";
  ASSERT_OK(feeder.Open(policy, "stored"));
  ASSERT_OK(feeder.Feed(240));
  ASSERT_OK(worker->Close(feeder.id()));
  ASSERT_OK(feeder.Open(policy, "resumed", "stored"));
  ASSERT_OK(feeder.Finish());
  std::vector<float> out(size_t{kShape.num_query_heads} * kShape.head_dim), lse(out.size());
  const auto attend = [&](uint32_t layer, uint32_t step) {
    const std::vector<float> q = text.Query(layer, step);
    const worker::AttendItem item{feeder.id(), q.data(), out.data(), lse.data()};
    return worker->Attend(layer, {&item, 1});
  };
  for (uint32_t step = 0; step < 200 && worker->Status().free_pages > 6; ++step) {
    ASSERT_OK(attend(0, step));
  }
  ASSERT_LE(worker->Status().free_pages, 6u);
  for (uint32_t step = 0; step < 20; ++step) {
    for (const uint32_t layer : {1u, 0u}) {
      ASSERT_OK(attend(layer, step));
      const auto pages = NaivePages(text, *worker::ParsePolicy(policy), page::DigestKind::kMinMax,
                                    layer, text.Query(layer, step), 240, 240);
      EXPECT_LT(
          RelativeError(out, NaiveAttention(text, layer, text.Query(layer, step), 240, pages).out),
          1e-5);
    }
  }
}

// A store that hangs may begin to write at any time: until it answers something, and its deadline
// has passed since, the slots of an unanswered recall are nobody's.
TEST_P(WorkerRefusals, SlotsOfAnUnansweredRecallWaitForAnAnswer) {
  const RandomText text(kShape, 37, 300);
  FakeClient client;
  const auto worker = Make(&client, 1024);
  Feeder feeder(worker.get(), &text);
  ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 240));
  client.FailGets(1, absl::DeadlineExceededError("no answer"));
  uint32_t step = 0;
  while (feeder.Attend(step).ok()) ASSERT_LT(++step, 20u);
  ASSERT_OK(worker->Close(feeder.id()));
  const uint32_t free = worker->Status().free_pages;
  EXPECT_LT(free, 1024u);
  absl::SleepFor(absl::Milliseconds(500));  // ten times the deadline
  EXPECT_EQ(worker->Status().free_pages, free);
  // A sequence that needs them asks; the answer comes, and then the time that it takes.
  Feeder whole(worker.get(), &text);
  ASSERT_OK(whole.Open("quest"));
  ASSERT_OK(worker->Extend(whole.id(), std::vector<int32_t>(1024 / 2 * 8, 1)));
  const std::vector<float> rows(1024 / 2 * 8 * 64);
  EXPECT_EQ(worker->Append(whole.id(), 0, rows.data(), rows.data(), 1024 / 2 * 8).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Eventually([&] { return worker->Status().free_pages == 1024u; }));
  ASSERT_OK(worker->Append(whole.id(), 0, rows.data(), rows.data(), 1024 / 2 * 8));
}

INSTANTIATE_TEST_SUITE_P(Paths, WorkerRefusals,
                         ::testing::Values(RecallPath::kWorker, RecallPath::kStore),
                         [](const auto& info) {
                           return info.param == RecallPath::kStore ? "StorePath" : "WorkerPath";
                         });

}  // namespace
}  // namespace varve::testing
