// A store that comes back while sequences decode: empty, with all that it had, or with some of it.
#include <map>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gpu_worker/worker.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/support/attended_pages.h"
#include "tests/support/fake_client.h"
#include "tests/support/test_engine.h"

namespace varve::testing {
namespace {

using ::testing::HasSubstr;

constexpr page::Geometry kShape{2, 2, 4, 32, 8, page::DType::kF32};

class StoreRestart : public ::testing::TestWithParam<worker::RecallPath> {
 protected:
  StoreRestart() : pool_(1024 * kShape.page_bytes()), text_(kShape, 41, 600) {
    worker::WorkerOptions options;
    options.geometry = kShape;
    options.recall_path = GetParam();
    options.step_deadline = absl::Seconds(20);
    options.pool_memory = pool_;
    options.metrics = &metrics_;
    auto made = worker::Worker::Create(options, &client_);
    EXPECT_TRUE(made.ok()) << made.status();
    worker_ = std::move(*made);
  }
  // The outputs are attention over exactly the pages that the table names, and those are real.
  void ExpectHonest(const Feeder& feeder, uint32_t step) {
    for (uint32_t l = 0; l < kShape.num_layers; ++l) {
      const auto pages = AttendedPages(*worker_, pool_, text_, feeder, l);
      ASSERT_TRUE(pages.ok()) << pages.status();
      const NaiveResult truth =
          NaiveAttention(text_, l, text_.Query(l, step), feeder.tokens(), *pages);
      EXPECT_LE(RelativeError(feeder.outputs()[l], truth.out), 2e-5) << step;
      EXPECT_LE(RelativeError(feeder.lse()[l], truth.lse), 2e-5) << step;
    }
  }
  double Metric(const std::string& name) { return metrics_.Counter(name, "").Value(); }

  std::vector<std::byte> pool_;
  const RandomText text_;
  FakeClient client_;
  base::Metrics metrics_;
  std::unique_ptr<worker::Worker> worker_;
};

// Nothing had left this worker: the new store has it all again, under the same names.
TEST_P(StoreRestart, WhatIsResidentIsSavedAgain) {
  for (const char* policy : {"full", "quest(budget=0.2)"}) {
    SCOPED_TRACE(policy);
    Feeder feeder(worker_.get(), &text_);
    ASSERT_OK(feeder.Open(policy, policy));
    ASSERT_OK(feeder.Feed(300));
    ASSERT_OK(feeder.Finish());
    ASSERT_OK(feeder.Step(0));
    client_.Restart();
    for (uint32_t step = 1; step < 10; ++step) {
      ASSERT_OK(feeder.Step(step));
      ExpectHonest(feeder, step);
    }
    EXPECT_EQ(feeder.Info().stats.lost_pages, 0u);
    ASSERT_OK(worker_->Close(feeder.id()));  // waits for what is under way
    const FakeContext context = client_.context(policy);
    EXPECT_EQ(context.hashes.size(), 38u);  // 310 tokens
    EXPECT_EQ(context.digest_blocks, (std::vector<uint32_t>{38, 38}));
    EXPECT_EQ(client_.objects(), 2 * 38u);
    // Resumed from the new store alone.
    Feeder resumed(worker_.get(), &text_);
    ASSERT_OK(resumed.Open("quest(budget=0.2)", "", policy));
    ASSERT_OK(resumed.Finish());
    ASSERT_OK(resumed.Step(77));
    ExpectHonest(resumed, 77);
  }
  EXPECT_EQ(Metric("varve_worker_rebuilt_contexts_total"), 2);
  EXPECT_EQ(Metric("varve_worker_lost_pages_total"), 0);
}

// Rebuilt keys are not those that were appended: a page of them is not saved, though it is
// resident.
TEST_P(StoreRestart, RebuiltKeysAreNeverSaved) {
  worker::WorkerOptions options = worker_->options();
  options.geometry.rope = page::RopeParameters{.theta = 10000, .rotary_dim = 32};
  options.metrics = nullptr;
  std::vector<std::byte> pool(pool_.size());
  options.pool_memory = pool;
  const auto worker = worker::Worker::Create(options, &client_);
  ASSERT_OK(worker.status());
  Feeder feeder(worker->get(), &text_);
  ASSERT_OK(feeder.Open("shadowkv(budget=4p,rank=16,outliers=0.5,hot=1000)", "chat"));
  ASSERT_OK(feeder.Feed(300));
  ASSERT_OK(feeder.Finish());
  for (uint32_t step = 0; step < 30; ++step) ASSERT_OK(feeder.Step(step));
  const std::map<std::string, std::string> before = client_.AllObjects();
  ASSERT_GE(before.size(), 2 * 37u);  // the prompt, and what was saved since
  client_.Restart();
  for (uint32_t step = 30; step < 60; ++step) ASSERT_OK(feeder.Step(step));
  ASSERT_OK((*worker)->Close(feeder.id()));
  size_t again = 0;
  for (const auto& [key, bytes] : client_.AllObjects()) {
    const auto was = before.find(key);
    if (was == before.end()) continue;
    EXPECT_TRUE(bytes == was->second);
    ++again;
  }
  EXPECT_GT(again, 0u);  // the sink and the window
  EXPECT_LT(again, before.size());
}

// What only the old store had is lost: counted, said, and left out; the rest goes on.
TEST_P(StoreRestart, LostPagesAreCountedAndLeftOut) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Prefill("arkvale(budget=6p,hot=2,generated=paged)", 400));
  for (uint32_t step = 0; step < 5; ++step) ASSERT_OK(feeder.Step(step));
  ::testing::internal::CaptureStderr();
  client_.Restart();
  ASSERT_OK(feeder.Step(5));
  const std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("the store came back with 0 of 50 blocks"));
  const uint64_t lost = feeder.Info().stats.lost_pages;
  EXPECT_THAT(log, HasSubstr(std::to_string(lost) + " pages are nowhere any more"));
  // 50 pages of 4 heads and layers, of which 12 each were resident at the most.
  EXPECT_GE(lost, 4 * (50u - 13u));
  EXPECT_LT(lost, 4 * 50u);
  EXPECT_EQ(Metric("varve_worker_lost_pages_total"), static_cast<double>(lost));
  ExpectHonest(feeder, 5);
  for (uint32_t step = 6; step < 120; ++step) {  // 14 blocks more
    ASSERT_OK(feeder.Step(step));
    ExpectHonest(feeder, step);
  }
  EXPECT_GE(client_.objects(), 2 * 14u);
  EXPECT_EQ(feeder.Info().stats.lost_pages, lost);
  EXPECT_EQ(Metric("varve_worker_rebuilt_contexts_total"), 1);
  // A second time, with some more.
  client_.Restart();
  for (uint32_t step = 120; step < 130; ++step) {
    ASSERT_OK(feeder.Step(step));
    ExpectHonest(feeder, step);
  }
  EXPECT_GE(feeder.Info().stats.lost_pages, lost);
  EXPECT_EQ(Metric("varve_worker_lost_pages_total"),
            static_cast<double>(feeder.Info().stats.lost_pages));
}

// A rebuild that fails half-way has found some of what is lost; all of it is counted, once.
TEST_P(StoreRestart, LostPagesAreCountedAlsoWhenRebuildingTakesTwoAttempts) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Prefill("arkvale(budget=6p,hot=2,generated=paged)", 400));
  ASSERT_OK(feeder.Step(0));
  client_.Restart();
  client_.FailExistsAfter(1);  // the second layer's
  for (uint32_t step = 1; step < 4; ++step) {
    if (!feeder.Step(step).ok()) ASSERT_OK(feeder.AttendWithToken(step));
  }
  EXPECT_GE(feeder.Info().stats.lost_pages, 4 * (50u - 13u));
  EXPECT_EQ(Metric("varve_worker_rebuilt_contexts_total"), 1);
  EXPECT_EQ(Metric("varve_worker_lost_pages_total"),
            static_cast<double>(feeder.Info().stats.lost_pages));
}

// While the store is away a step that needs it fails, and gives nothing up for it.
TEST_P(StoreRestart, AStepWithoutAStoreFailsAndEvictsNothing) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 400));
  ASSERT_OK(feeder.Step(0));
  ASSERT_OK(feeder.Announce());
  client_.Stop();
  absl::Status status;
  uint32_t query = 1;
  for (; status.ok() && query < 50; ++query) status = feeder.AttendWithToken(query);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("page "));
  const uint64_t evicted = feeder.Info().stats.evicted_pages;
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(feeder.AttendWithToken(query - 1).ok());
  EXPECT_EQ(feeder.Info().stats.evicted_pages, evicted);
  client_.Restart();
  ASSERT_OK(feeder.AttendWithToken(query - 1));
  ExpectHonest(feeder, query - 1);
}

TEST_P(StoreRestart, APromptUnderWayIsSavedToTheNewStore) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open("arkvale(budget=4p)", "conversation"));
  ASSERT_OK(feeder.Feed(200, 50));
  client_.Restart();
  ASSERT_OK(feeder.Feed(200, 50));
  ASSERT_OK(feeder.Finish());
  EXPECT_EQ(feeder.Info().stats.lost_pages, 0u);
  EXPECT_EQ(client_.objects(), 2 * 50u);
  for (uint32_t step = 0; step < 10; ++step) {
    ASSERT_OK(feeder.Step(step));
    ExpectHonest(feeder, step);
  }
}

// Another worker has saved the same blocks in the meantime: they are not lost.
TEST_P(StoreRestart, BlocksThatAnotherSavedAreFound) {
  Feeder sparse(worker_.get(), &text_), full(worker_.get(), &text_);
  ASSERT_OK(sparse.Prefill("arkvale(budget=4p,hot=1)", 400));
  ASSERT_OK(full.Open("full", "kept"));
  ASSERT_OK(full.Feed(400));
  ASSERT_OK(full.Finish());
  client_.Restart();
  ASSERT_OK(full.Step(0));
  ASSERT_OK(worker_->Close(full.id()));
  EXPECT_EQ(client_.objects(), 2 * 50u);
  ASSERT_OK(sparse.Step(0));
  ExpectHonest(sparse, 0);
  EXPECT_EQ(sparse.Info().stats.lost_pages, 0u);
}

// The store has everything, under new epochs: nothing is lost, and nothing is sent a second time.
TEST_P(StoreRestart, WhatTheStoreRememberedIsTakenOver) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open("arkvale(budget=6p,hot=2,generated=paged)", "kept"));
  ASSERT_OK(feeder.Feed(400));
  ASSERT_OK(feeder.Finish());
  for (uint32_t step = 0; step < 5; ++step) ASSERT_OK(feeder.Step(step));
  const uint64_t puts = client_.put_items();
  const uint64_t digests = client_.digest_rows();
  client_.RestartWithAll();
  ASSERT_OK(feeder.Step(5));
  ExpectHonest(feeder, 5);
  EXPECT_EQ(feeder.Info().stats.lost_pages, 0u);
  EXPECT_EQ(client_.put_items(), puts);
  EXPECT_EQ(client_.digest_rows(), digests);
  EXPECT_FALSE(client_.context("kept").parked);
  for (uint32_t step = 6; step < 60; ++step) {  // new blocks in the new epoch
    ASSERT_OK(feeder.Step(step));
    ExpectHonest(feeder, step);
  }
  ASSERT_OK(worker_->Close(feeder.id()));
  const auto blocks = static_cast<uint32_t>(client_.context("kept").hashes.size());
  EXPECT_EQ(blocks, (400u + 60u) / 8);
  EXPECT_EQ(client_.context("kept").digest_blocks, (std::vector<uint32_t>{blocks, blocks}));
  EXPECT_EQ(client_.put_items(), 2 * blocks);
  EXPECT_EQ(Metric("varve_worker_lost_pages_total"), 0);
}

// The end of the journal was lost: the store is given the blocks, digests and objects that it
// lacks, and no others.
TEST_P(StoreRestart, WhatTheStoreForgotIsGivenAgain) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open("arkvale(budget=60p,hot=1)", "kept"));
  ASSERT_OK(feeder.Feed(400));
  ASSERT_OK(feeder.Finish());
  ASSERT_OK(feeder.Step(0));
  const std::vector<std::string> hashes = client_.context("kept").hashes;
  ASSERT_EQ(hashes.size(), 50u);
  client_.RestartWithAll();
  ASSERT_OK(client_.TruncateContext("kept", 30).status());
  for (uint32_t block : {7u, 49u}) client_.Forget(*page::MakeObjectKey(hashes[block], 1));
  const uint64_t puts = client_.put_items();
  const uint64_t digests = client_.digest_rows();
  ASSERT_OK(feeder.Step(1));
  ExpectHonest(feeder, 1);
  ASSERT_OK(worker_->Close(feeder.id()));
  EXPECT_EQ(client_.context("kept").hashes, hashes);
  EXPECT_EQ(client_.context("kept").digest_blocks, (std::vector<uint32_t>{50, 50}));
  EXPECT_EQ(client_.put_items(), puts + 2);
  EXPECT_EQ(client_.digest_rows(), digests + 2 * 20);
  EXPECT_EQ(client_.objects(), 2 * 50u);
  EXPECT_EQ(Metric("varve_worker_lost_pages_total"), 0);
}

// Only what is neither stored nor resident is lost.
TEST_P(StoreRestart, ObjectsThatTheStoreForgotAreLost) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open("arkvale(budget=6p,hot=1,generated=paged)", "kept"));
  ASSERT_OK(feeder.Feed(400));
  ASSERT_OK(feeder.Finish());
  for (uint32_t step = 0; step < 5; ++step) ASSERT_OK(feeder.Step(step));
  client_.RestartWithAll();
  const std::vector<std::string> hashes = client_.context("kept").hashes;
  for (uint32_t block = 10; block < 20; ++block) {
    client_.Forget(*page::MakeObjectKey(hashes[block], 0));
  }
  for (uint32_t step = 5; step < 30; ++step) {
    ASSERT_OK(feeder.Step(step));
    ExpectHonest(feeder, step);
  }
  EXPECT_GT(feeder.Info().stats.lost_pages, 0u);
  EXPECT_LE(feeder.Info().stats.lost_pages, 2 * 10u);
}

// The store remembers an earlier life of the name: as far as it is this sequence's it is used.
TEST_P(StoreRestart, AnEarlierLifeOfTheNameIsReplaced) {
  const auto other_shape = [] {
    page::Geometry shape = kShape;
    shape.head_dim = 64;
    return shape;
  }();
  for (const uint32_t common : {0u, 20u}) {
    for (const page::Geometry& shape : {kShape, other_shape}) {
      const std::string id =
          "life-" + std::to_string(common) + "-" + std::to_string(shape.head_dim);
      SCOPED_TRACE(id);
      Feeder feeder(worker_.get(), &text_);
      ASSERT_OK(feeder.Open("arkvale(budget=60p,hot=1)", id));
      ASSERT_OK(feeder.Feed(400));
      ASSERT_OK(feeder.Finish());
      ASSERT_OK(feeder.Step(0));
      const std::vector<std::string> hashes = client_.context(id).hashes;
      std::vector<std::string> others(hashes.begin(), hashes.begin() + common);
      others.resize(80, "another block");
      client_.RestartWithAll();
      ASSERT_OK(client_.DropContext(id));
      ASSERT_OK(client_.OpenContext(id, shape, page::DigestKind::kMinMax).status());
      ASSERT_OK(client_.AppendContext(id, 0, others).status());
      ASSERT_OK(client_.ParkContext(id).status());
      ASSERT_OK(feeder.Step(1));
      ExpectHonest(feeder, 1);
      ASSERT_OK(worker_->Close(feeder.id()));
      EXPECT_EQ(client_.context(id).hashes, hashes);
      EXPECT_EQ(client_.context(id).geometry, kShape);
      EXPECT_EQ(client_.context(id).digest_blocks, (std::vector<uint32_t>{50, 50}));
    }
  }
  EXPECT_EQ(Metric("varve_worker_lost_pages_total"), 0);
}

// Somebody else works under the name by now: it stays theirs.
TEST_P(StoreRestart, AContextThatAnotherIsAttachedToIsLeftAlone) {
  Feeder feeder(worker_.get(), &text_);
  ASSERT_OK(feeder.Open("arkvale(budget=4p,hot=1)", "contested"));
  ASSERT_OK(feeder.Feed(400));
  ASSERT_OK(feeder.Finish());
  ASSERT_OK(feeder.Step(0));
  client_.Restart();
  ASSERT_OK(client_.OpenContext("contested", kShape, page::DigestKind::kMinMax).status());
  const std::vector<std::string> theirs(60, "another block");
  ASSERT_OK(client_.AppendContext("contested", 0, theirs).status());
  client_.AttachAnother("contested");
  ASSERT_OK(feeder.Announce());
  absl::Status status;
  for (uint32_t query = 1; status.ok() && query < 50; ++query) {
    status = feeder.AttendWithToken(query);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another session"));
  EXPECT_EQ(client_.context("contested").hashes, theirs);
}

// A crash kept blocks and lost some of their digests: what has all is resumed, in place or forked.
TEST_P(StoreRestart, AContextThatLacksDigestsIsResumedAsFarAsItHasThem) {
  const std::string rows(10 * page::DigestRowBytes(page::DigestKind::kMinMax, kShape), '\0');
  ASSERT_OK(client_.OpenContext("cut", kShape, page::DigestKind::kMinMax).status());
  std::vector<std::string> hashes;
  for (uint32_t b = 0; b < 10; ++b) hashes.push_back("block " + std::to_string(b));
  ASSERT_OK(client_.AppendContext("cut", 0, hashes).status());
  const uint32_t epoch = client_.context("cut").epoch;
  ASSERT_OK(client_.SendDigests("cut", epoch, 0, 0, 10, rows, absl::Now()));
  ASSERT_OK(client_.SendDigests("cut", epoch, 1, 0, 7, rows.substr(0, rows.size() / 10 * 7),
                                absl::Now()));
  ASSERT_OK(client_.ParkContext("cut").status());
  for (const char* id : {"fork", "cut"}) {
    Feeder feeder(worker_.get(), &text_);
    ASSERT_OK(feeder.Open("full", id, "cut"));
    EXPECT_EQ(feeder.tokens(), 7u * 8);
    EXPECT_EQ(client_.context(id).hashes.size(), 7u);
    EXPECT_EQ(client_.context(id).digest_blocks, (std::vector<uint32_t>{7, 7}));
    if (std::string(id) == "fork") {
      EXPECT_EQ(client_.context("cut").hashes.size(), 10u);
    }
    ASSERT_OK(worker_->Close(feeder.id()));
  }
}

INSTANTIATE_TEST_SUITE_P(Paths, StoreRestart,
                         ::testing::Values(worker::RecallPath::kWorker, worker::RecallPath::kStore),
                         [](const auto& info) {
                           return info.param == worker::RecallPath::kWorker ? "Worker" : "Store";
                         });

}  // namespace
}  // namespace varve::testing
