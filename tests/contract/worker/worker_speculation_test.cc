// Speculation, for every form of the worker: P18 in both directions, P19, and correction head by
// head.
#include <algorithm>
#include <cmath>
#include <random>

#include "tests/contract/worker/worker_contract.h"

namespace varve::testing {
namespace {

using worker::AttendItem;
using worker::ParsePolicy;
using worker::SequenceStats;

constexpr uint32_t kPrompt = 400;
constexpr uint32_t kHeadFloats = kSmall.num_query_heads / kSmall.num_kv_heads * kSmall.head_dim;

// Queries of one layer that the test makes up.
struct Asked {
  std::vector<float> q;
  std::vector<float> out = std::vector<float>(q.size());
  std::vector<float> lse = std::vector<float>(kSmall.num_query_heads);
};

absl::Status AttendTo(worker::Worker* worker, const Feeder& feeder, uint32_t layer, Asked& asked) {
  const AttendItem item{feeder.id(), asked.q.data(), asked.out.data(), asked.lse.data()};
  return worker->Attend(layer, {&item, 1});
}

// The same direction, a little turned: at a cosine of about 0.95 with q.
std::vector<float> Turned(const std::vector<float>& q, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> turned;
  for (float x : q) turned.push_back(0.95f * x + 0.31f * normal(random));
  return turned;
}

class Speculation : public WorkerContract {
 protected:
  // One that never gives up waiting, where that can be set.
  std::unique_ptr<WorkerUnderTest> MakePatient(uint32_t pages = 1024) {
    worker::WorkerOptions options;
    options.geometry = kSmall;
    options.prefetch_patience = absl::Seconds(10);
    auto made = MakeWorker(GetParam(), store_.get(), options, pages);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? std::move(*made) : nullptr;
  }
  std::vector<std::vector<uint32_t>> Pages(const std::vector<float>& q, uint32_t layer,
                                           const std::string& policy, uint32_t tokens) const {
    return NaivePages(text_, *ParsePolicy(policy), page::DigestKind::kMinMax, layer, q, kPrompt,
                      tokens);
  }
  void ExpectAttended(const Asked& asked, uint32_t layer,
                      const std::vector<std::vector<uint32_t>>& pages, uint32_t tokens) const {
    const NaiveResult truth = NaiveAttention(text_, layer, asked.q, tokens, pages);
    EXPECT_LE(RelativeError(asked.out, truth.out), 2e-5) << "layer " << layer;
    EXPECT_LE(RelativeError(asked.lse, truth.lse), 2e-5) << "layer " << layer;
  }

  const RandomText text_{kSmall, 7, kPrompt + 100};
};

// P18: with tau 1 the outputs are those without speculation, bit for bit, also for queries that
// have not turned at all; and nothing is fetched ahead.
TEST_P(Speculation, TauOneIsNoSpeculation) {
  const auto made = MakePatient();
  ASSERT_NE(made, nullptr);
  Feeder plain(made->worker(), &text_), speculating(made->worker(), &text_);
  ASSERT_OK(plain.Prefill("arkvale(budget=5p,hot=1.5)", kPrompt));
  ASSERT_OK(speculating.Prefill("arkvale(budget=5p,hot=1.5,tau=1)", kPrompt));
  for (uint32_t step = 0; step < 40; ++step) {
    ASSERT_OK(plain.Step(step / 2));
    ASSERT_OK(speculating.Step(step / 2));
    ASSERT_EQ(plain.outputs(), speculating.outputs()) << step;
    ASSERT_EQ(plain.lse(), speculating.lse()) << step;
  }
  const SequenceStats expected = plain.Info().stats, stats = speculating.Info().stats;
  EXPECT_EQ(stats.recalled_pages, expected.recalled_pages);
  EXPECT_GT(stats.recalled_pages, 0u);
  EXPECT_EQ(stats.prefetched_pages, 0u);
  EXPECT_EQ(stats.kept_heads, 0u);
  EXPECT_EQ(stats.corrected_heads, 39u * kSmall.num_layers * kSmall.num_kv_heads);
}

// P18: with tau -1 every step attends to what the queries of the step before selected, however far
// they have turned.
TEST_P(Speculation, TauMinusOneAttendsToWhatTheStepBeforeSelected) {
  const std::string policy = "arkvale(budget=5p,hot=1.5,tau=-1)";
  const auto made = MakePatient();
  ASSERT_NE(made, nullptr);
  Feeder feeder(made->worker(), &text_);
  ASSERT_OK(feeder.Prefill(policy, kPrompt));
  uint64_t late = 0;
  for (uint32_t step = 0; step < 40; ++step) {
    ASSERT_OK(feeder.Step(step));
    const bool in_time = feeder.Info().stats.late_heads == late;
    late = feeder.Info().stats.late_heads;
    for (uint32_t l = 0; in_time && l < kSmall.num_layers; ++l) {
      const auto pages =
          Pages(text_.Query(l, step == 0 ? 0 : step - 1), l, policy, feeder.tokens());
      const Asked asked{text_.Query(l, step), feeder.outputs()[l], feeder.lse()[l]};
      ExpectAttended(asked, l, pages, feeder.tokens());
    }
  }
  const SequenceStats stats = feeder.Info().stats;
  EXPECT_EQ(stats.kept_heads + late, 39u * kSmall.num_layers * kSmall.num_kv_heads);
  EXPECT_GT(stats.kept_heads, 0u);
  EXPECT_EQ(stats.corrected_heads, 0u);
  EXPECT_GT(stats.prefetch_used_pages, 0u);
  EXPECT_LE(stats.prefetch_used_pages + stats.prefetch_wasted_pages, stats.prefetched_pages);
  // A quarter of the budget at a time.
  EXPECT_LE(stats.prefetched_pages, 40u * kSmall.num_layers * kSmall.num_kv_heads * 2);
  EXPECT_EQ(stats.hot_pages + stats.recalled_pages, stats.selected_pages);  // P14
}

// Each KV head for itself: one whose queries have turned is corrected, the other keeps what it has.
TEST_P(Speculation, AHeadIsCorrectedWhenItsQueriesTurn) {
  const std::string policy = "arkvale(budget=5p,hot=1,tau=0.85,ahead=1)";
  const auto made = MakePatient();
  ASSERT_NE(made, nullptr);
  Feeder feeder(made->worker(), &text_);
  ASSERT_OK(feeder.Prefill(policy, kPrompt));
  std::mt19937_64 random(3);
  std::vector<std::vector<float>> before;
  for (uint32_t l = 0; l < kSmall.num_layers; ++l) before.push_back(text_.Query(l, 0));
  uint64_t late = 0;
  for (uint32_t step = 0; step < 30; ++step) {
    const uint32_t turning = step % (kSmall.num_kv_heads + 1);  // the last: none
    for (uint32_t l = 0; l < kSmall.num_layers; ++l) {
      Asked asked{step == 0 ? before[l] : Turned(before[l], random)};
      const std::vector<float> fresh = text_.Query(l, 100 + step);
      auto expected = Pages(before[l], l, policy, feeder.tokens());
      if (step > 0 && turning < kSmall.num_kv_heads) {
        std::copy_n(fresh.begin() + turning * kHeadFloats, kHeadFloats,
                    asked.q.begin() + turning * kHeadFloats);
        expected[turning] = Pages(asked.q, l, policy, feeder.tokens())[turning];
      }
      ASSERT_OK(AttendTo(made->worker(), feeder, l, asked));
      const bool in_time = feeder.Info().stats.late_heads == late;
      late = feeder.Info().stats.late_heads;
      if (in_time) ExpectAttended(asked, l, expected, feeder.tokens());
      before[l] = asked.q;
    }
  }
  const SequenceStats stats = feeder.Info().stats;
  EXPECT_EQ(stats.kept_heads + stats.corrected_heads + stats.late_heads,
            29u * kSmall.num_layers * kSmall.num_kv_heads);
  EXPECT_EQ(stats.corrected_heads, 19u * kSmall.num_layers);
  EXPECT_GT(stats.prefetch_used_pages, 0u);
}

// What fits the budget is resident: nothing is compared, asked for or fetched (P19).
TEST_P(Speculation, NothingMovesWhenEverythingFits) {
  const auto made = MakePatient();
  ASSERT_NE(made, nullptr);
  Feeder feeder(made->worker(), &text_);
  ASSERT_OK(feeder.Prefill("arkvale(budget=1,tau=-1)", kPrompt));
  for (uint32_t step = 0; step < 20; ++step) {
    ASSERT_OK(feeder.Step(step));
    ExpectNaive(text_, feeder, "full", page::DigestKind::kMinMax, kPrompt, step, 1e-5);
  }
  const SequenceStats stats = feeder.Info().stats;
  EXPECT_EQ(stats.recalled_pages, 0u);
  EXPECT_EQ(stats.prefetched_pages, 0u);
  EXPECT_EQ(stats.evicted_pages, 0u);
  EXPECT_EQ(stats.kept_heads + stats.corrected_heads + stats.late_heads, 0u);
}

// Generated pages that age like the prompt's change what can be selected: the step that has more
// candidates selects anew.
TEST_P(Speculation, MoreCandidatesSelectAnew) {
  const auto made = MakePatient();
  ASSERT_NE(made, nullptr);
  Feeder feeder(made->worker(), &text_);
  ASSERT_OK(feeder.Prefill("arkvale(budget=5p,generated=paged,tau=-1)", kPrompt));
  for (uint32_t step = 0; step < 3 * kSmall.page_tokens; ++step) {
    ASSERT_OK(feeder.Step(step));
    if (feeder.tokens() % kSmall.page_tokens != 0) continue;
    ExpectNaive(text_, feeder, "arkvale(budget=5p,generated=paged)", page::DigestKind::kMinMax,
                kPrompt, step, 2e-5);
  }
}

// A warm start has the first step's pages there before it begins, with and without speculation, and
// changes no output of a sequence that does not speculate.
TEST_P(Speculation, AWarmStartOfAdaptiveBudgetsChangesNoOutput) {
  const auto made = MakePatient();
  ASSERT_NE(made, nullptr);
  const std::string policy = "arkvale(budget=6p,hot=1,target=0.9)";
  Feeder cold(made->worker(), &text_), warm(made->worker(), &text_);
  ASSERT_OK(cold.Prefill(policy, kPrompt));
  ASSERT_OK(warm.Prefill(policy, kPrompt));
  for (uint32_t again = 0; again < 2; ++again) {
    for (uint32_t l = 0; l < kSmall.num_layers; ++l) {
      const std::vector<float> q = text_.Query(l, again);
      const AttendItem item{warm.id(), q.data()};
      ASSERT_OK(made->worker()->Warm(l, {&item, 1}));
    }
    ASSERT_OK(cold.Step(again));
    ASSERT_OK(warm.Step(again));
    EXPECT_EQ(cold.outputs(), warm.outputs()) << again;
  }
  const SequenceStats stats = warm.Info().stats;
  EXPECT_EQ(stats.mass_bound_samples, cold.Info().stats.mass_bound_samples);
  EXPECT_EQ(stats.mass_bound_sum, cold.Info().stats.mass_bound_sum);
}

TEST_P(Speculation, AWarmStartFetchesTheFirstStepsPages) {
  const auto made = MakePatient();
  ASSERT_NE(made, nullptr);
  Feeder cold(made->worker(), &text_), warm(made->worker(), &text_), kept(made->worker(), &text_);
  ASSERT_OK(cold.Prefill("arkvale(budget=6p,hot=1)", kPrompt));
  ASSERT_OK(warm.Prefill("arkvale(budget=6p,hot=1)", kPrompt));
  ASSERT_OK(kept.Prefill("arkvale(budget=6p,hot=1,tau=0.85)", kPrompt));
  for (const Feeder* feeder : {&warm, &kept}) {
    for (uint32_t l = 0; l < kSmall.num_layers; ++l) {
      const std::vector<float> q = text_.Query(l, 0);
      const AttendItem item{feeder->id(), q.data()};
      ASSERT_OK(made->worker()->Warm(l, {&item, 1}));
    }
  }
  for (uint32_t step = 0; step < 5; ++step) {
    ASSERT_OK(cold.Step(step));
    ASSERT_OK(warm.Step(step));
    ASSERT_OK(kept.Step(step));
    ASSERT_EQ(cold.outputs(), warm.outputs()) << step;
    if (step > 0) continue;
    EXPECT_EQ(cold.outputs(), kept.outputs());
    EXPECT_GT(cold.Info().stats.recalled_pages, 0u);
    for (const Feeder* feeder : {&warm, &kept}) {
      const SequenceStats stats = feeder->Info().stats;
      EXPECT_GT(stats.prefetched_pages, 0u);
      // All of them, unless the machine was too slow for the patience of a sidecar.
      EXPECT_TRUE(stats.recalled_pages == 0 ||
                  stats.prefetch_wait > absl::Milliseconds(kSmall.num_layers * 10));
    }
  }
  EXPECT_EQ(warm.Info().stats.corrected_heads, 0u);
}

INSTANTIATE_TEST_SUITE_P(All, Speculation, ::testing::ValuesIn(AllSettings()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace varve::testing
