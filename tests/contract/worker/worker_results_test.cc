// What an engine gets out of the worker: attention over the pages that the policy selects, in the
// same bits whatever the placement, history, chunking, batch and path. Properties P8-P20 are listed
// in docs/architecture.md.
#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/contract/worker/worker_contract.h"

namespace varve::testing {
namespace {

using worker::AttendItem;
using worker::ParsePolicy;

page::Geometry RandomGeometry(std::mt19937_64& random) {
  page::Geometry g;
  g.num_layers = 1 + random() % 3;
  g.num_kv_heads = 1 + random() % 3;
  g.num_query_heads = g.num_kv_heads * (1 + random() % 5);
  g.head_dim = 32 + 8 * (random() % 29);
  g.page_tokens = 8u << (random() % 3);
  g.dtype = static_cast<page::DType>(1 + random() % 3);
  return g;
}

// The layer's page table names `pages` ([KV head]), each in a slot of its own that holds what was
// appended.
void ExpectAppendedBytes(WorkerUnderTest& made, const RandomText& text, const Feeder& feeder,
                         uint32_t layer, const std::vector<std::vector<uint32_t>>& pages) {
  const page::Geometry& g = text.geometry();
  const worker::SequenceId id = feeder.id();
  const auto table = made.worker()->ExportPageTable(layer, {&id, 1});
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->indptr.size(), g.num_kv_heads + 1);
  std::set<int32_t> slots(table->indices.begin(), table->indices.end());
  EXPECT_EQ(slots.size(), table->indices.size());  // P11: one page, one slot
  for (uint32_t head = 0; head < g.num_kv_heads; ++head) {
    const int32_t first = table->indptr[head];
    ASSERT_EQ(table->indptr[head + 1] - first, static_cast<int32_t>(pages[head].size()));
    EXPECT_EQ(table->last_page_len[head], (feeder.tokens() - 1) % g.page_tokens + 1);
    for (size_t i = 0; i + 1 < pages[head].size(); ++i) {  // all but the open one
      const size_t at = size_t(table->indices[first + i]) * g.page_bytes();
      const std::string bytes(reinterpret_cast<const char*>(made.pool().data()) + at,
                              g.page_bytes());
      EXPECT_EQ(bytes, text.Page(layer, head, pages[head][i])) << "page " << pages[head][i];
    }
  }
}

// P8: a budget of all pages is dense attention, for every policy, shape and length.
TEST_P(WorkerContract, BudgetOfAllPagesIsDenseAttention) {
  const std::vector<std::string> policies = {"full", "streaming(budget=1)", "quest(budget=1)",
                                             "arkvale(budget=1)", "arkvale(budget=1000p,hot=1)"};
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    page::Geometry g = RandomGeometry(random);
    g.dtype = page::DType::kF32;
    const uint32_t prompt = 1 + random() % (6 * g.page_tokens);
    const RandomText text(g, seed, prompt + 40);
    const auto made = Make(g);
    ASSERT_NE(made, nullptr);
    for (const std::string& policy : policies) {
      Feeder feeder(made->worker(), &text);
      ASSERT_OK(feeder.Prefill(policy, prompt, 1 + random() % prompt));
      for (uint32_t step = 0; step < 12; ++step) {
        ASSERT_OK(feeder.Step(step));
        ExpectNaive(text, feeder, "full", page::DigestKind::kMinMax, prompt, step, 1e-5);
      }
      EXPECT_EQ(feeder.Info().stats.recalled_pages, 0u);  // P19
      ASSERT_OK(made->worker()->Close(feeder.id()));
    }
  }
}

// The selected pages, and only these, are attended: against a selection and attention computed from
// the raw keys.
TEST_P(WorkerContract, AttendsExactlyWhatThePolicySelects) {
  const std::vector<std::string> policies = {
      "streaming(budget=0.3)",
      "quest(budget=0.3,merge=max)",
      "quest(budget=4p,merge=mean,sinks=2,generated=paged)",
      "arkvale(budget=0.3)",
      "arkvale(budget=3p,hot=1,sinks=0,window=0)",
      "arkvale(budget=0.2,merge=softmax_max,hot=1.5,window=2)",
      "arkvale(budget=4p,generated=paged)",
      "quest(budget=0.3,target=0.9)",
      "arkvale(budget=0.3,hot=1,target=0.7,min=2)",
      "arkvale(budget=4p,target=0.99,ceiling=2,generated=paged)"};
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const page::Geometry g = RandomGeometry(random);
    const auto digest = static_cast<page::DigestKind>(1 + random() % 10);
    const uint32_t prompt = 1 + random() % (20 * g.page_tokens);
    const RandomText text(g, seed, prompt + 80);
    const auto made = Make(g, 2048, digest);
    ASSERT_NE(made, nullptr);
    for (int i = 0; i < 3; ++i) {
      const std::string& policy = policies[random() % policies.size()];
      Feeder feeder(made->worker(), &text);
      ASSERT_OK(feeder.Prefill(policy, prompt, 1 + random() % prompt));
      for (uint32_t step = 0; step < 20; ++step) {
        ASSERT_OK(feeder.Step(step));
        ExpectNaive(text, feeder, policy, digest, prompt, step, 2e-5);
      }
      ASSERT_OK(made->worker()->Close(feeder.id()));
    }
  }
}

// A second stage by sketches of all pages selects what sketches alone select.
TEST_P(WorkerContract, SketchesAsSecondStageSelectAsSketchesAlone) {
  // The fake store has no second stage.
  if (GetParam().store == "fake" && GetParam().path == worker::RecallPath::kStore) return;
  const RandomText text(kSmall, 15, 600);
  const auto alone = Make(kSmall, 1024, page::DigestKind::kSign4);
  const auto both = Make(kSmall, 1024, page::DigestKind::kMinMaxSign4);
  const auto boxes = Make(kSmall, 1024, page::DigestKind::kMinMax);
  ASSERT_TRUE(alone != nullptr && both != nullptr && boxes != nullptr);
  Feeder first(alone->worker(), &text), second(both->worker(), &text),
      third(boxes->worker(), &text);
  ASSERT_OK(first.Prefill("arkvale(budget=4p,hot=1)", 500));
  ASSERT_OK(second.Prefill("arkvale(budget=4p,hot=1,rerank=sketch,multiplier=1024)", 500));
  ASSERT_OK(third.Prefill("arkvale(budget=4p,hot=1)", 500));
  bool differs = false;
  for (uint32_t step = 0; step < 20; ++step) {
    ASSERT_OK(first.Step(step));
    ASSERT_OK(second.Step(step));
    ASSERT_OK(third.Step(step));
    EXPECT_EQ(first.outputs(), second.outputs()) << step;
    differs = differs || first.outputs() != third.outputs();
  }
  EXPECT_TRUE(differs) << "boxes select the same: the test shows nothing";
}

// Which pages leave a hot set changes what is recalled, and no output. Hysteresis changes what is
// selected: fewer pages move.
TEST_P(WorkerContract, RulesOfTheHotSetChangeNoOutput) {
  const RandomText text(kSmall, 16, 600);
  const auto made = Make(kSmall, 2048);
  ASSERT_NE(made, nullptr);
  const std::vector<std::string> rules = {"smoothing=0", "smoothing=0.9", "victims=lru",
                                          "hysteresis=2"};
  std::vector<std::unique_ptr<Feeder>> feeders;
  for (const std::string& rule : rules) {
    feeders.push_back(std::make_unique<Feeder>(made->worker(), &text));
    ASSERT_OK(feeders.back()->Prefill("arkvale(budget=4p,hot=1.5," + rule + ")", 500));
  }
  bool differs = false;
  for (uint32_t step = 0; step < 40; ++step) {
    for (const auto& feeder : feeders) ASSERT_OK(feeder->Step(step));
    EXPECT_EQ(feeders[1]->outputs(), feeders[0]->outputs()) << step;
    EXPECT_EQ(feeders[2]->outputs(), feeders[0]->outputs()) << step;
    differs = differs || feeders[3]->outputs() != feeders[0]->outputs();
  }
  EXPECT_TRUE(differs);
  std::set<uint64_t> recalled;
  for (int i = 0; i < 3; ++i) recalled.insert(feeders[i]->Info().stats.recalled_pages);
  EXPECT_GE(recalled.size(), 2u) << "all rules choose alike: the test shows nothing";
  EXPECT_LT(feeders[3]->Info().stats.recalled_pages, *recalled.begin());
}

// P9: with everything resident or with the smallest hot set, after any history, the output has the
// same bits.
TEST_P(WorkerContract, OutputDoesNotDependOnPlacementOrHistory) {
  const RandomText text(kSmall, 5, 600);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  Feeder resident(made->worker(), &text), tight(made->worker(), &text),
      roomy(made->worker(), &text);
  ASSERT_OK(resident.Prefill("quest(budget=5p)", 500));
  ASSERT_OK(tight.Prefill("arkvale(budget=5p,hot=1)", 500, 37));
  ASSERT_OK(roomy.Prefill("arkvale(budget=5p,hot=3)", 500, 8));
  for (uint32_t noise = 1000; noise < 1020; ++noise) ASSERT_OK(roomy.Attend(noise));
  for (uint32_t step = 0; step < 30; ++step) {
    ASSERT_OK(resident.Step(step));
    ASSERT_OK(tight.Step(step));
    ASSERT_OK(roomy.Step(step));
    EXPECT_EQ(resident.outputs(), tight.outputs()) << step;
    EXPECT_EQ(resident.outputs(), roomy.outputs()) << step;
    EXPECT_EQ(resident.lse(), tight.lse()) << step;
  }
  EXPECT_EQ(resident.Info().stats.recalled_pages, 0u);
  EXPECT_GT(tight.Info().stats.recalled_pages, roomy.Info().stats.recalled_pages);
  const worker::SequenceStats stats = tight.Info().stats;
  EXPECT_EQ(stats.hot_pages + stats.recalled_pages, stats.selected_pages);  // P14
  EXPECT_EQ(stats.recalled_bytes, stats.recalled_pages * kSmall.page_bytes());
}

// A prefill in any chunks is the same prefill: same bits out, same blocks in the store.
TEST_P(WorkerContract, ChunkedPrefillIsOnePrefill) {
  const RandomText text(kSmall, 6, 400);
  const auto made = Make(kSmall, 2048);
  ASSERT_NE(made, nullptr);
  std::vector<std::vector<float>> expected;
  uint64_t objects = 0;
  for (uint32_t chunk : {0u, 1u, 7u, 8u, 100u}) {
    SCOPED_TRACE(chunk);
    Feeder feeder(made->worker(), &text);
    ASSERT_OK(feeder.Prefill("arkvale(budget=4p,hot=1)", 333, chunk));
    ASSERT_OK(feeder.Step(0));
    if (expected.empty()) expected = feeder.outputs();
    EXPECT_EQ(feeder.outputs(), expected);
    if (objects == 0) objects = feeder.Info().stats.saved_objects;
    EXPECT_EQ(feeder.Info().stats.saved_objects, objects);
    EXPECT_EQ(feeder.Info().blocks, 41u);
  }
  EXPECT_EQ(objects, 41u * kSmall.num_layers);
}

// P10: a page that was evicted and recalled has the bytes that were appended, in the slot that the
// page table names.
TEST_P(WorkerContract, RecalledPagesHaveTheAppendedBytes) {
  const std::vector<std::string> policies = {"arkvale(budget=4p,hot=1)",
                                             "arkvale(budget=4p,hot=1.5,merge=max)",
                                             "arkvale(budget=5p,hot=1,sinks=2,window=1)"};
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    std::mt19937_64 random(seed);
    const page::Geometry g = RandomGeometry(random);
    const auto digest = static_cast<page::DigestKind>(1 + random() % 10);
    const std::string& name = policies[random() % policies.size()];
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << name << ", " << g.ToString());
    const uint32_t prompt = (20 + random() % 10) * g.page_tokens + random() % g.page_tokens;
    const RandomText text(g, seed, prompt + 10);
    const auto made = Make(g, 512, digest);
    ASSERT_NE(made, nullptr);
    Feeder feeder(made->worker(), &text);
    ASSERT_OK(feeder.Prefill(name, prompt, 1 + random() % prompt));
    for (uint32_t step = 0; step < 6; ++step) {
      ASSERT_OK(feeder.Step(step));
      for (uint32_t l = 0; l < g.num_layers; ++l) {
        const auto pages = NaivePages(text, *ParsePolicy(name), digest, l, text.Query(l, step),
                                      prompt, feeder.tokens());
        ExpectAppendedBytes(*made, text, feeder, l, pages);
      }
    }
    EXPECT_GT(feeder.Info().stats.recalled_pages, 0u);
  }
}

// P17: a larger budget keeps at least as much attention mass, and all pages keep all of it.
TEST_P(WorkerContract, LargerBudgetsKeepMoreMass) {
  const RandomText text(kSmall, 8, 500);
  const auto made = Make(kSmall, 2048, page::DigestKind::kMinMax, 1);
  ASSERT_NE(made, nullptr);
  double before = 0;
  for (const char* policy : {"arkvale(budget=3p,hot=1)", "arkvale(budget=8p,hot=1)",
                             "arkvale(budget=20p,hot=1)", "arkvale(budget=1)"}) {
    Feeder feeder(made->worker(), &text);
    ASSERT_OK(feeder.Prefill(policy, 400));
    for (uint32_t step = 0; step < 5; ++step) ASSERT_OK(feeder.Attend(step));
    const worker::SequenceStats stats = feeder.Info().stats;
    EXPECT_EQ(stats.mass_samples, 5u * kSmall.num_layers * kSmall.num_kv_heads);
    const double kept = stats.mass_sum / static_cast<double>(stats.mass_samples);
    EXPECT_GT(kept, before) << policy;
    before = kept;
  }
  EXPECT_NEAR(before, 1.0, 1e-6);
}

// P7: every step's proven share of kept mass is below the true one, in every dtype, group and path.
TEST_P(WorkerContract, P7TheProvenMassIsBelowTheTrueOne) {
  const bool in_store = GetParam().path == worker::RecallPath::kStore;
  const bool second_stage = in_store && GetParam().store != "fake";
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    std::mt19937_64 random(seed);
    page::Geometry g = RandomGeometry(random);
    g.dtype = static_cast<page::DType>(1 + seed % 3);
    const auto digest = seed % 2 == 0 ? page::DigestKind::kMinMax : page::DigestKind::kSphere;
    // Beyond seed 4 all keys are looked at, and the bound is the truth but for rounding.
    const bool all_keys = second_stage && seed > 4;
    std::string policy = "arkvale(budget=4p,hot=1)";
    if (second_stage && seed > 2) policy = "arkvale(budget=4p,hot=1,rerank=exact,multiplier=3)";
    if (all_keys) policy = "arkvale(budget=4p,hot=1,rerank=exact,multiplier=1024)";
    SCOPED_TRACE(::testing::Message() << "seed " << seed << ", " << policy << g.ToString());
    const RandomText text(g, seed, 16 * g.page_tokens + 20);
    const auto made = Make(g, 1024, digest, 1);
    ASSERT_NE(made, nullptr);
    Feeder feeder(made->worker(), &text);
    ASSERT_OK(feeder.Prefill(policy, 16 * g.page_tokens + 3));
    worker::SequenceStats before;
    for (uint32_t step = 0; step < 8; ++step) {
      ASSERT_OK(feeder.Step(step));
      const worker::SequenceStats stats = feeder.Info().stats;
      const uint64_t works = uint64_t{step + 1} * g.num_layers * g.num_kv_heads;
      ASSERT_EQ(stats.mass_samples, works);
      ASSERT_EQ(stats.mass_bound_samples, works);
      const double truth = stats.mass_sum - before.mass_sum;
      const double proven = stats.mass_bound_sum - before.mass_bound_sum;
      EXPECT_LE(proven, truth + 1e-5 * g.num_layers * g.num_kv_heads);
      EXPECT_GE(proven, all_keys ? truth - 1e-2 : 0);
      if (policy.find("rerank") != std::string::npos) {
        ASSERT_EQ(stats.mass_estimate_samples, works);
        const double estimate = stats.mass_estimate_sum - before.mass_estimate_sum;
        EXPECT_GE(estimate, truth - 1e-3);
        EXPECT_GE(estimate, proven);
      }
      before = stats;
    }
  }
}

// What drops nothing proves it, and what drops without a bound says nothing.
TEST_P(WorkerContract, TheCertificateKnowsWhatItDoesNotKnow) {
  const RandomText text(kSmall, 8, 300);
  const auto check = [&](page::DigestKind digest, const char* policy, double proven) {
    SCOPED_TRACE(policy);
    const auto made = Make(kSmall, 1024, digest);
    ASSERT_NE(made, nullptr);
    Feeder feeder(made->worker(), &text);
    ASSERT_OK(feeder.Prefill(policy, 200));
    ASSERT_OK(feeder.Step(0));
    const worker::SequenceStats stats = feeder.Info().stats;
    const uint64_t works = proven < 0 ? 0 : uint64_t{kSmall.num_layers} * kSmall.num_kv_heads;
    EXPECT_EQ(stats.mass_bound_samples, works);
    EXPECT_EQ(stats.mass_bound_sum, proven < 0 ? 0 : static_cast<double>(works) * proven);
    EXPECT_EQ(stats.mass_estimate_samples, 0u);
  };
  check(page::DigestKind::kMinMax, "arkvale(budget=1)", 1);
  check(page::DigestKind::kMean, "full", 1);
  check(page::DigestKind::kMean, "arkvale(budget=4p)", -1);
  check(page::DigestKind::kMinMax, "streaming(budget=4p)", -1);
}

// Adaptive budgets: no more pages than the fixed budget has, and both paths choose the same.
TEST_P(WorkerContract, AdaptiveBudgetsKeepWithinTheTotal) {
  const RandomText text(kSmall, 8, 500);
  const auto made = Make(kSmall, 2048, page::DigestKind::kMinMax, 1);
  ASSERT_NE(made, nullptr);
  uint64_t before = 0;
  for (const char* target : {"0.05", "0.3", "0.6", "1"}) {
    SCOPED_TRACE(target);
    Feeder feeder(made->worker(), &text);
    const std::string policy =
        absl::StrCat("arkvale(budget=10p,hot=1,min=2,target=", target, ",ceiling=3)");
    ASSERT_OK(feeder.Prefill(policy, 400));
    for (uint32_t step = 0; step < 5; ++step) {
      ASSERT_OK(feeder.Attend(step));
      ExpectNaive(text, feeder, policy, page::DigestKind::kMinMax, 400, step, 2e-5);
    }
    const worker::SequenceStats stats = feeder.Info().stats;
    const uint64_t works = uint64_t{5} * kSmall.num_layers * kSmall.num_kv_heads;
    EXPECT_GE(stats.selected_pages, before);
    EXPECT_LE(stats.selected_pages, 10 * works);
    EXPECT_GE(stats.selected_pages, 2 * works);
    EXPECT_EQ(stats.mass_bound_samples, works);
    EXPECT_LE(stats.mass_bound_sum, stats.mass_sum + 1e-5);
    before = stats.selected_pages;
  }
  EXPECT_EQ(before, 10u * 5 * kSmall.num_layers * kSmall.num_kv_heads) << "the whole total";
}

// What a layer with a sharp attention leaves, later ones of its step have, and no other step; a
// layer that is asked for again has what it had.
TEST_P(WorkerContract, AdaptiveBudgetsCarryOverWithinAStep) {
  const RandomText text(kSmall, 8, 500);
  const auto made = Make(kSmall);
  ASSERT_NE(made, nullptr);
  const std::string policy = "arkvale(budget=10p,hot=1,min=2,target=0.9,ceiling=4)";
  Feeder feeder(made->worker(), &text);
  ASSERT_OK(feeder.Prefill(policy, 400));
  const uint64_t own = 10 * kSmall.num_kv_heads;
  uint64_t left = 0;
  const auto attend = [&](uint32_t layer, float scale) -> uint64_t {
    std::vector<float> q = text.Query(layer, 3);
    for (float& x : q) x *= scale;
    std::vector<float> out(q.size()), lse(kSmall.num_query_heads);
    const AttendItem item{feeder.id(), q.data(), out.data(), lse.data()};
    const uint64_t before = feeder.Info().stats.selected_pages;
    const absl::Status status = made->worker()->Attend(layer, {&item, 1});
    EXPECT_TRUE(status.ok()) << status;
    if (layer == 0) left = 0;
    const auto pages = NaivePages(text, *ParsePolicy(policy), page::DigestKind::kMinMax, layer, q,
                                  400, feeder.tokens(), &left);
    const NaiveResult truth = NaiveAttention(text, layer, q, feeder.tokens(), pages);
    EXPECT_LE(RelativeError(out, truth.out), 2e-5);
    return feeder.Info().stats.selected_pages - before;
  };
  constexpr float kSharp = 10, kFlat = 0.001f;
  const uint64_t sharp = attend(0, kSharp);
  ASSERT_LT(sharp, own);
  const uint64_t before = left;
  EXPECT_EQ(attend(1, kFlat), 2 * own - sharp);
  left = before;
  EXPECT_EQ(attend(1, kFlat), 2 * own - sharp);
  EXPECT_LT(attend(1, kSharp), own);
  EXPECT_EQ(attend(0, kFlat), own);
  EXPECT_EQ(attend(1, kFlat), own);
}

// P20: KV heads with the same keys and queries choose the same pages.
TEST_P(WorkerContract, EqualHeadsChooseEqualPages) {
  page::Geometry one = kSmall;
  one.num_kv_heads = 1;
  one.num_query_heads = 2;
  const RandomText text(one, 9, 300);
  page::Geometry three = one;
  three.num_kv_heads = 3;
  three.num_query_heads = 6;
  const auto made = Make(three);
  const auto single = Make(one);
  ASSERT_TRUE(made != nullptr && single != nullptr);
  const auto policy = *ParsePolicy("arkvale(budget=4p,hot=1)");
  const auto id = made->worker()->Open({policy, "", ""});
  ASSERT_TRUE(id.ok()) << id.status();
  Feeder reference(single->worker(), &text);
  ASSERT_OK(reference.Prefill("arkvale(budget=4p,hot=1)", 300));
  ASSERT_OK(made->worker()->Extend(*id, text.Tokens(0, 300)));
  const size_t row = one.row_bytes();
  for (uint32_t l = 0; l < one.num_layers; ++l) {
    std::vector<std::byte> k, v;
    for (uint32_t t = 0; t < 300; ++t) {
      for (int copy = 0; copy < 3; ++copy) {
        k.insert(k.end(), text.Keys(l, t), text.Keys(l, t) + row);
        v.insert(v.end(), text.Values(l, t), text.Values(l, t) + row);
      }
    }
    ASSERT_OK(made->worker()->Append(*id, l, k.data(), v.data(), 300));
  }
  ASSERT_OK(made->worker()->FinishPrefill(*id));
  for (uint32_t step = 0; step < 5; ++step) {
    ASSERT_OK(reference.Attend(step));
    for (uint32_t l = 0; l < one.num_layers; ++l) {
      const std::vector<float> q = text.Query(l, step);
      std::vector<float> q3, out(3 * q.size());
      for (int copy = 0; copy < 3; ++copy) q3.insert(q3.end(), q.begin(), q.end());
      const AttendItem item{*id, q3.data(), out.data(), nullptr};
      ASSERT_OK(made->worker()->Attend(l, {&item, 1}));
      for (int copy = 0; copy < 3; ++copy) {
        EXPECT_TRUE(std::equal(reference.outputs()[l].begin(), reference.outputs()[l].end(),
                               out.begin() + copy * static_cast<long>(q.size())));
      }
    }
  }
}

// Sequences of different lengths and policies in one call give what they give alone.
TEST_P(WorkerContract, ABatchIsItsItems) {
  const std::vector<std::string> policies = {"full",
                                             "arkvale(budget=4p,hot=1,target=0.5)",
                                             "arkvale(budget=4p,hot=1)",
                                             "quest(budget=0.2)",
                                             "arkvale(budget=0.1)",
                                             "streaming(budget=3p)"};
  const auto made = Make(kSmall, 2048);
  ASSERT_NE(made, nullptr);
  std::vector<RandomText> texts;
  std::vector<Feeder> together, alone;
  texts.reserve(policies.size());
  for (uint32_t i = 0; i < policies.size(); ++i) {
    const uint32_t prompt = 9 + 83 * i;
    texts.emplace_back(kSmall, 20 + i, prompt + 20);
    together.emplace_back(made->worker(), &texts[i]);
    alone.emplace_back(made->worker(), &texts[i]);
    ASSERT_OK(together[i].Prefill(policies[i], prompt));
    ASSERT_OK(alone[i].Prefill(policies[i], prompt));
  }
  for (uint32_t step = 0; step < 12; ++step) {
    for (Feeder& feeder : together) ASSERT_OK(feeder.Feed(1));
    for (Feeder& feeder : alone) ASSERT_OK(feeder.Step(step));
    for (uint32_t l = 0; l < kSmall.num_layers; ++l) {
      std::vector<std::vector<float>> q, out;
      std::vector<AttendItem> items;
      for (const RandomText& text : texts) q.push_back(text.Query(l, step));
      for (const auto& query : q) out.emplace_back(query.size());
      for (size_t i = 0; i < texts.size(); ++i) {
        items.push_back({together[i].id(), q[i].data(), out[i].data(), nullptr});
      }
      ASSERT_OK(made->worker()->Attend(l, items));
      for (size_t i = 0; i < texts.size(); ++i) {
        EXPECT_EQ(out[i], alone[i].outputs()[l]) << policies[i] << " step " << step;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, WorkerContract, ::testing::ValuesIn(AllSettings()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace varve::testing
