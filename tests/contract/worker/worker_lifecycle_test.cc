// Turns, resumed contexts, pools that are too small, closing, and bad input.
#include <cmath>
#include <set>

#include "gmock/gmock.h"
#include "tests/contract/worker/worker_contract.h"

namespace varve::testing {
namespace {

using ::testing::HasSubstr;
using worker::AttendItem;

// Turns: prompt tokens that come after FinishPrefill are attended in full.
TEST_P(WorkerContract, LaterTurnsAreAppended) {
  const RandomText text(kSmall, 10, 500);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  const std::string policy = "arkvale(budget=4p,hot=1)";
  Feeder feeder(made->worker(), &text);
  ASSERT_OK(feeder.Prefill(policy, 200));
  for (uint32_t turn = 0; turn < 4; ++turn) {
    ASSERT_OK(feeder.Feed(41, 20));
    for (uint32_t i = 0; i < 5; ++i) {
      ASSERT_OK(feeder.Step(turn * 10 + i));
      ExpectNaive(text, feeder, policy, page::DigestKind::kMinMax, 200, turn * 10 + i, 2e-5);
    }
  }
}

// A stored context comes back by its digests alone and decodes as if it had never left.
TEST_P(WorkerContract, AResumedContextDecodesAsTheOriginal) {
  const RandomText text(kSmall, 11, 400);
  const std::string policy = "arkvale(budget=5p,hot=1)";
  const auto first = Make(kSmall);
  const auto second = Make(kSmall);
  ASSERT_TRUE(first != nullptr && second != nullptr);
  Feeder original(first->worker(), &text);
  ASSERT_OK(original.Open(policy, "conversation-1"));
  ASSERT_OK(original.Feed(300, 64));
  ASSERT_OK(original.Finish());

  Feeder resumed(second->worker(), &text);
  ASSERT_OK(resumed.Open(policy, "", "conversation-1"));
  EXPECT_EQ(resumed.tokens(), 296u);  // whole blocks
  EXPECT_EQ(second->worker()->Status().free_pages, second->worker()->Status().pool_pages);
  ASSERT_OK(resumed.Feed(4));
  ASSERT_OK(resumed.Finish());
  for (uint32_t step = 0; step < 20; ++step) {
    ASSERT_OK(original.Step(step));
    ASSERT_OK(resumed.Step(step));
    EXPECT_EQ(original.outputs(), resumed.outputs()) << step;
  }
  EXPECT_GT(resumed.Info().stats.recalled_pages, 0u);

  // In place, after the first owner has gone.
  ASSERT_OK(first->worker()->Close(original.id()));
  Feeder again(second->worker(), &text);
  ASSERT_OK(again.Open("full", "conversation-1", "conversation-1"));
  EXPECT_EQ(again.tokens(), 320u);
  ASSERT_OK(again.Finish());
  ASSERT_OK(again.Step(77));
  ExpectNaive(text, again, "full", page::DigestKind::kMinMax, 320, 77, 1e-5);
}

// A pool that does not hold the prompt: evicting policies make room as pages are saved, the others
// say what they need.
TEST_P(WorkerContract, APromptLargerThanThePool) {
  const RandomText text(kSmall, 12, 1100);
  const auto made = Make(kSmall, 64);  // 16 pages for each (layer, head); the prompt has 125
  ASSERT_NE(made, nullptr);
  for (const std::string policy : {"arkvale(budget=4p,hot=2)", "streaming(budget=5p)"}) {
    Feeder feeder(made->worker(), &text);
    ASSERT_OK(feeder.Open(policy));
    ASSERT_OK(feeder.Feed(1000, 24));
    ASSERT_OK(feeder.Finish());
    for (uint32_t step = 0; step < 20; ++step) {
      ASSERT_OK(feeder.Step(step));
      ExpectNaive(text, feeder, policy, page::DigestKind::kMinMax, 1000, step, 2e-5);
    }
    ASSERT_OK(made->worker()->Close(feeder.id()));
  }
  Feeder full(made->worker(), &text);
  ASSERT_OK(full.Open("full"));
  ASSERT_OK(made->worker()->Extend(full.id(), text.Tokens(0, 1000)));
  const absl::Status refused =
      made->worker()->Append(full.id(), 0, text.Keys(0, 0), text.Values(0, 0), 1000);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("needs 250 more pages"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("available: 64 of 64"));
  EXPECT_EQ(made->worker()->Status().free_pages, 64u);  // nothing was taken
}

// Each object tells the store how much its sequence had when the block left.
TEST_P(WorkerContract, SaysWhatAPageCostsToLose) {
  const RandomText text(kSmall, 21, 200);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  Feeder feeder(made->worker(), &text);
  ASSERT_OK(feeder.Open("full"));
  ASSERT_OK(feeder.Feed(40));   // blocks 0 to 4
  ASSERT_OK(feeder.Feed(100));  // up to block 16, and 4 tokens more
  ASSERT_OK(feeder.Finish());
  for (uint32_t step = 0; step < 4; ++step) ASSERT_OK(feeder.Step(step));  // the end of block 17
  constexpr uint32_t kBlocks = 18;
  const auto client = store_->Connect();
  ASSERT_OK(client.status());
  std::multiset<uint32_t> told, expected;
  for (const absl::Time end = absl::Now() + absl::Seconds(30);
       told.size() < kBlocks * kSmall.num_layers && absl::Now() < end;) {
    const auto listed = (*client)->List("", 1000, "");
    ASSERT_OK(listed.status());
    told.clear();
    for (const client::ObjectInfo& object : listed->objects) {
      told.insert(object.prompt_tokens);
      EXPECT_EQ(object.tokens, kSmall.page_tokens);
    }
  }
  for (uint32_t block = 0; block < kBlocks; ++block) {
    for (uint32_t layer = 0; layer < kSmall.num_layers; ++layer) {
      expected.insert(block < 5 ? 40 : block < 17 ? 140 : 144);
    }
  }
  EXPECT_EQ(told, expected);
}

TEST_P(WorkerContract, ClosingGivesEverythingBack) {
  const RandomText text(kSmall, 13, 300);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  for (const char* policy : {"full", "quest(budget=0.1)", "arkvale(budget=0.1)", "streaming"}) {
    Feeder feeder(made->worker(), &text);
    ASSERT_OK(feeder.Prefill(policy, 250));
    ASSERT_OK(feeder.Step(0));
    EXPECT_LT(made->worker()->Status().free_pages, made->worker()->Status().pool_pages);
    EXPECT_EQ(made->worker()->Status().sequences, 1u);
    ASSERT_OK(made->worker()->Close(feeder.id()));
    EXPECT_EQ(made->worker()->Status().free_pages, made->worker()->Status().pool_pages);
    EXPECT_EQ(made->worker()->Status().sequences, 0u);
    EXPECT_EQ(made->worker()->Close(feeder.id()).code(), absl::StatusCode::kNotFound);
  }
}

// A token that comes with its queries is the same as one that was appended before.
TEST_P(WorkerContract, TokensComeWithTheirQueries) {
  const RandomText text(kSmall, 16, 400);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  const char* policy = "arkvale(budget=4p,hot=1)";
  Feeder one(made->worker(), &text), two(made->worker(), &text);
  ASSERT_OK(one.Prefill(policy, 300));
  ASSERT_OK(two.Prefill(policy, 300));
  for (uint32_t step = 0; step < 20; ++step) {  // more than two pages
    ASSERT_OK(one.Step(step));
    ASSERT_OK(two.StepInTwoCalls(step));
    EXPECT_EQ(one.outputs(), two.outputs()) << step;
    EXPECT_EQ(one.lse(), two.lse()) << step;
  }
  EXPECT_EQ(one.Info().tokens, 320u);
  // As it was, once more: nothing is appended.
  const std::vector<std::vector<float>> outputs = one.outputs();
  ASSERT_OK(one.AttendWithToken(19));
  EXPECT_EQ(one.outputs(), outputs);
  EXPECT_EQ(one.Info().tokens, 320u);
  ASSERT_OK(one.Step(20));
}

TEST_P(WorkerContract, ARefusedBatchAppendsNothing) {
  const RandomText text(kSmall, 17, 200);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  worker::Worker& w = *made->worker();
  Feeder good(&w, &text), other(&w, &text);
  ASSERT_OK(good.Prefill("full", 100));
  ASSERT_OK(other.Prefill("full", 100));
  std::vector<float> q = text.Query(0, 0), out(q.size()), bad(64, NAN);
  AttendItem items[2] = {{good.id(), q.data(), out.data()}, {other.id(), q.data(), out.data()}};
  for (AttendItem& item : items) {
    item.k = text.Keys(0, 100);
    item.v = text.Values(0, 100);
  }
  const auto refused = [&](const char* why) {
    const absl::Status status = w.Attend(0, items);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  };
  refused("call Extend first");
  ASSERT_OK(good.Announce());
  refused("call Extend first");  // the other one
  ASSERT_OK(other.Announce());
  items[1].v = bad.data();
  refused("value of token 100, layer 0, KV head 0, channel 0 is NaN");
  items[1].v = nullptr;
  refused("a key without its value");
  items[1].k = nullptr;
  refused("layer 0 has 100 of 101 announced tokens");
  // Had any of these appended the first item's token, this one would be one too many.
  items[1].k = text.Keys(0, 100);
  items[1].v = text.Values(0, 100);
  ASSERT_OK(w.Append(good.id(), 0, text.Keys(0, 100), text.Values(0, 100), 1));
  refused("call Extend first");
  items[0].k = items[0].v = nullptr;
  ASSERT_OK(w.Attend(0, items));
}

TEST_P(WorkerContract, BadInputIsNamed) {
  const RandomText text(kSmall, 14, 200);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  worker::Worker& w = *made->worker();
  const auto expect = [](const absl::Status& status, absl::StatusCode code, const char* text) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  std::vector<float> q(128), out(128);
  AttendItem item{999, q.data(), out.data(), nullptr};
  const worker::SequenceId unknown = 999;
  expect(w.Extend(unknown, text.Tokens(0, 1)), absl::StatusCode::kNotFound, "999");
  expect(w.Append(unknown, 0, text.Keys(0, 0), text.Values(0, 0), 1), absl::StatusCode::kNotFound,
         "999");
  expect(w.FinishPrefill(unknown), absl::StatusCode::kNotFound, "999");
  expect(w.Attend(0, {&item, 1}), absl::StatusCode::kNotFound, "999");
  expect(w.Info(unknown).status(), absl::StatusCode::kNotFound, "999");
  expect(w.ExportPageTable(0, {&unknown, 1}).status(), absl::StatusCode::kNotFound, "999");

  Feeder feeder(&w, &text);
  ASSERT_OK(feeder.Open("arkvale(budget=0.5)"));
  const auto append = [&](uint32_t layer, const void* k, uint32_t tokens) {
    return w.Append(feeder.id(), layer, k, text.Values(0, 0), tokens);
  };
  expect(w.FinishPrefill(feeder.id()), absl::StatusCode::kFailedPrecondition, "empty");
  expect(append(0, text.Keys(0, 0), 1), absl::StatusCode::kFailedPrecondition, "call Extend first");
  ASSERT_OK(w.Extend(feeder.id(), text.Tokens(0, 20)));
  expect(append(2, text.Keys(0, 0), 1), absl::StatusCode::kInvalidArgument, "allowed: 0..1");
  expect(append(0, text.Keys(0, 0), 21), absl::StatusCode::kFailedPrecondition, "only 20 of 20");
  std::vector<float> bad(20 * 64);
  bad[5 * 64 + 32 + 3] = NAN;
  expect(append(0, bad.data(), 20), absl::StatusCode::kInvalidArgument,
         "key of token 5, layer 0, KV head 1, channel 3 is NaN");
  expect(w.FinishPrefill(feeder.id()), absl::StatusCode::kFailedPrecondition,
         "layer 0 has 0 of 20");
  item.sequence = feeder.id();
  expect(w.Attend(0, {&item, 1}), absl::StatusCode::kFailedPrecondition, "FinishPrefill");
  for (uint32_t l = 0; l < 2; ++l) {
    ASSERT_OK(w.Append(feeder.id(), l, text.Keys(l, 0), text.Values(l, 0), 20));
  }
  ASSERT_OK(w.FinishPrefill(feeder.id()));
  ASSERT_OK(w.FinishPrefill(feeder.id()));  // who did not hear of it asks again
  expect(w.Attend(2, {&item, 1}), absl::StatusCode::kInvalidArgument, "allowed: 0..1");
  const worker::SequenceId id = feeder.id();
  expect(w.ExportPageTable(0, {&id, 1}).status(), absl::StatusCode::kFailedPrecondition,
         "no Attend");
  const AttendItem twice[] = {item, item};
  expect(w.Attend(0, twice), absl::StatusCode::kInvalidArgument, "in the batch twice");
  AttendItem null = item;
  null.q = nullptr;
  expect(w.Attend(0, {&null, 1}), absl::StatusCode::kInvalidArgument, "null");
  ASSERT_OK(w.Extend(feeder.id(), text.Tokens(20, 1)));
  expect(w.Attend(0, {&item, 1}), absl::StatusCode::kFailedPrecondition, "20 of 21");
  expect(w.FinishPrefill(feeder.id()), absl::StatusCode::kFailedPrecondition, "before");

  worker::SequenceOptions wrong;
  wrong.policy.kind = worker::PolicyKind::kArkVale;
  wrong.policy.hot = 0.1;
  expect(w.Open(wrong).status(), absl::StatusCode::kInvalidArgument, "hot");
  wrong = {};
  wrong.resume_context_id = "no-such-context";
  expect(w.Open(wrong).status(), absl::StatusCode::kNotFound, "no-such-context");
  // After all that the worker still works.
  Feeder good(&w, &text);
  ASSERT_OK(good.Prefill("arkvale(budget=0.3)", 100));
  ASSERT_OK(good.Step(0));
}

TEST_P(WorkerContract, ContextsOfOtherShapesAreRefused) {
  const RandomText text(kSmall, 15, 100);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  Feeder feeder(made->worker(), &text);
  ASSERT_OK(feeder.Open("full", "shape-context"));
  ASSERT_OK(feeder.Feed(64));
  ASSERT_OK(made->worker()->Close(feeder.id()));
  page::Geometry other = kSmall;
  other.head_dim = 64;
  const auto different = Make(other);
  const auto digest = Make(kSmall, 256, page::DigestKind::kMean);
  ASSERT_TRUE(different != nullptr && digest != nullptr);
  worker::SequenceOptions options;
  options.resume_context_id = "shape-context";
  for (const auto& wrong : {different.get(), digest.get()}) {
    const absl::Status status = wrong->worker()->Open(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("geometry"));
  }
}

}  // namespace
}  // namespace varve::testing
