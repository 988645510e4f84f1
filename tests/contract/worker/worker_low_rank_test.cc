// Policy shadowkv, for every form of the worker: low-rank keys, values from the store.
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "kvstore/base/status.h"
#include "kvstore/page/lowrank/memory.h"
#include "tests/contract/worker/worker_contract.h"

namespace varve::testing {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kPrompt = 403, kSteps = 30;

// Of kSmall, 64 channels of keys a token and layer.
page::Geometry Turned() {
  page::Geometry g = kSmall;
  g.rope = page::RopeParameters{.theta = 10000, .rotary_dim = 24};
  return g;
}

class LowRank : public WorkerContract {
 protected:
  // Outputs and log-sum-exps of all steps.
  using Outputs = std::vector<std::vector<std::vector<float>>>;
  static void Talk(Feeder& feeder, Outputs& outputs) {
    for (uint32_t step = 0; step < kSteps; ++step) {
      ASSERT_OK(feeder.Step(step));
      outputs.push_back(feeder.outputs());
      outputs.push_back(feeder.lse());
    }
  }
  Outputs Run(const std::string& policy, uint32_t chunk = 0) {
    Outputs outputs;
    const auto made = Make(Turned());
    Feeder feeder(made->worker(), &text_);
    const absl::Status prefilled = feeder.Prefill(policy, kPrompt, chunk);
    EXPECT_TRUE(prefilled.ok()) << prefilled;
    Talk(feeder, outputs);
    EXPECT_GT(feeder.Info().stats.recalled_pages, 0u);
    EXPECT_TRUE(made->worker()->Close(feeder.id()).ok());
    return outputs;
  }

  // Why a worker of this geometry does not open such a sequence.
  std::string Refused(const page::Geometry& geometry, const std::string& policy) {
    const auto made = Make(geometry);
    Feeder feeder(made->worker(), &text_);
    const absl::Status status = feeder.Open(policy);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  }

  const RandomText text_{Turned(), 17, kPrompt + 600};
};

// P15: nothing is lost at full rank, and half of the bytes are moved.
TEST_P(LowRank, FullRankIsWhatExactKeysGive) {
  for (const std::string rest :
       {"budget=6p,hot=1,merge=softmax_mean,generated=pinned",
        "budget=8p,hot=2,window=2,sinks=2,merge=softmax_max,generated=paged"}) {
    SCOPED_TRACE(rest);
    const auto made = Make(Turned());
    Feeder feeder(made->worker(), &text_);
    ASSERT_OK(feeder.Prefill(absl::StrCat("shadowkv(rank=64,outliers=0,", rest, ")"), kPrompt, 37));
    for (uint32_t step = 0; step < kSteps; ++step) {
      ASSERT_OK(feeder.Step(step));
      ExpectNaive(text_, feeder, absl::StrCat("arkvale(", rest, ")"), page::DigestKind::kMinMax,
                  kPrompt, step, 1e-4);
    }
    const worker::SequenceStats stats = feeder.Info().stats;
    EXPECT_GT(stats.recalled_pages, 0u);
    EXPECT_EQ(stats.recalled_bytes, stats.recalled_pages * kSmall.part_bytes());
    ASSERT_OK(made->worker()->Close(feeder.id()));
  }
}

// A page that stayed and one that came again are the same, however the prompt came.
TEST_P(LowRank, TheOutputDependsOnTheTokensAlone) {
  const std::string policy = "shadowkv(budget=6p,rank=20,outliers=0.5,generated=pinned";
  const Outputs outputs = Run(policy + ",hot=1)");
  ASSERT_EQ(outputs.size(), 2 * kSteps);
  EXPECT_TRUE(outputs == Run(policy + ",hot=1)", 61));
  EXPECT_TRUE(outputs == Run(policy + ",hot=3)"));
  EXPECT_TRUE(outputs == Run(policy + ",hot=1,victims=lru)", 8));
  EXPECT_TRUE(outputs == Run(policy + ",hot=2,tau=1)"));
  EXPECT_FALSE(outputs == Run("shadowkv(budget=6p,rank=21,outliers=0.5,generated=pinned)"));
}

// A worker that has only the digests reads the keys, and makes the same rows of them.
TEST_P(LowRank, AnotherWorkerGoesOnAlike) {
  const std::string policy = "shadowkv(budget=6p,rank=20,outliers=0.5,hot=1,generated=pinned)";
  constexpr uint32_t kStored = kPrompt / 8 * 8;
  Outputs outputs, resumed;
  const auto made = Make(Turned());
  Feeder whole(made->worker(), &text_), first(made->worker(), &text_);
  ASSERT_OK(whole.Prefill(policy, kStored));
  Talk(whole, outputs);
  ASSERT_OK(first.Open(policy, "chat"));
  ASSERT_OK(first.Feed(kStored));
  ASSERT_OK(first.Finish());
  ASSERT_OK(made->worker()->Close(first.id()));

  const auto another = Make(Turned());
  Feeder second(another->worker(), &text_);
  ASSERT_OK(second.Open(policy, "chat", "chat"));
  second.set_tokens(kStored);
  ASSERT_OK(second.Finish());
  Talk(second, resumed);
  EXPECT_TRUE(outputs == resumed);
}

// Generated pages age like those of the prompt: their keys become low-rank and their values leave.
TEST_P(LowRank, LongGenerations) {
  const auto made = Make(Turned(), 512);
  Feeder feeder(made->worker(), &text_);
  ASSERT_OK(feeder.Prefill("shadowkv(budget=6p,rank=64,outliers=0,hot=1)", 100));
  for (uint32_t step = 0; step < 500; ++step) {
    ASSERT_OK(feeder.Step(step));
    if (step % 50 != 49) continue;
    ExpectNaive(text_, feeder, "arkvale(budget=6p,merge=softmax_max,generated=paged)",
                page::DigestKind::kMinMax, 100, step, 1e-4);
  }
  // Pages that age do not pile up in hot sets of one selection.
  EXPECT_LE(feeder.Info().memory.hot, 2 * 2 * 6 * kSmall.page_bytes());
  const worker::SequenceStats stats = feeder.Info().stats;
  EXPECT_GT(stats.recalled_pages, 1000u);
  EXPECT_EQ(stats.recalled_bytes, stats.recalled_pages * kSmall.part_bytes());
}

// Later pages get new subspaces behind the steps' backs: at full rank nothing is lost by any of
// them, and pages that wait for one stay exact.
TEST_P(LowRank, NewSubspacesForLaterPages) {
  const auto made = Make(Turned(), 128);
  Feeder feeder(made->worker(), &text_);
  ASSERT_OK(feeder.Prefill("shadowkv(budget=6p,rank=64,outliers=0,hot=1,refresh=1e-12)", 100));
  const uint64_t one = feeder.Info().memory.basis;
  EXPECT_EQ(one, 2u * 64 * 64 * sizeof(float));
  for (uint32_t step = 0; step < 800; ++step) {
    ASSERT_OK(feeder.Step(step));
    if (step % 50 != 49) continue;
    ExpectNaive(text_, feeder, "arkvale(budget=6p,merge=softmax_max,generated=paged)",
                page::DigestKind::kMinMax, 100, step, 1e-4);
  }
  EXPECT_GE(feeder.Info().memory.basis, 2 * one);
}

// A turn of many pages at once, all of which are outside: those that come after the call for a new
// subspace wait for it, and none is skipped.
TEST_P(LowRank, NewSubspacesForAnotherTurn) {
  const auto made = Make(Turned(), 512);
  Feeder feeder(made->worker(), &text_);
  ASSERT_OK(feeder.Prefill("shadowkv(budget=6p,rank=64,outliers=0,hot=1,refresh=1e-12)", 100));
  ASSERT_OK(feeder.Feed(800));
  const uint64_t one = feeder.Info().memory.basis;
  for (uint32_t step = 0; step < 60; ++step) {
    ASSERT_OK(feeder.Step(step));
    if (step % 20 != 19) continue;
    ExpectNaive(text_, feeder, "arkvale(budget=6p,merge=softmax_max,generated=paged)",
                page::DigestKind::kMinMax, 100, step, 1e-4);
  }
  EXPECT_GE(feeder.Info().memory.basis, 2 * one);
}

// The bytes by kind are those of the formula (page/lowrank/memory.h).
TEST_P(LowRank, MemoryIsWhatTheFormulaSays) {
  const auto made = Make(Turned(), 1024, page::DigestKind::kMean);
  Feeder feeder(made->worker(), &text_);
  ASSERT_OK(
      feeder.Prefill("shadowkv(budget=6p,rank=20,outliers=0.5,hot=1,sinks=1,window=2)", kPrompt));
  ASSERT_OK(feeder.Attend(0));
  const worker::SequenceInfo info = feeder.Info();
  const page::LowRankShape shape = {.num_kv_heads = 2,
                                    .head_dim = 32,
                                    .rank = 20,
                                    .chunk_tokens = 8,
                                    .dtype = page::DType::kF32,
                                    .rows_dtype = page::DType::kF32,
                                    .basis_dtype = page::DType::kF32,
                                    .id_bytes = 0,
                                    .outlier_chunks = 3,
                                    .budget_tokens = 6 * 8,
                                    .window_tokens = 1 * 8};  // the open page
  constexpr uint32_t kLayers = 2, kPages = kPrompt / 8;
  const page::LowRankBytes layer = page::LowRankMemory(shape, kPages * 8);
  EXPECT_EQ(info.memory.digests, kLayers * layer.landmarks);
  EXPECT_EQ(info.memory.basis, kLayers * layer.basis);
  // The window has none.
  EXPECT_EQ(info.memory.rows, kLayers * page::LowRankMemory(shape, (kPages - 2) * 8).rows);
  EXPECT_EQ(info.memory.gram, 0u);
  // An outlier may be among sinks and window, which are in the budget.
  EXPECT_EQ(info.memory.outliers + info.memory.window + info.memory.hot,
            kLayers * (layer.outliers + layer.hot + layer.window));
  EXPECT_LE(info.memory.outliers, kLayers * layer.outliers);
  ASSERT_EQ(info.discarded_energy.size(), kLayers);
  for (const double share : info.discarded_energy) EXPECT_TRUE(share > 0.3 && share < 0.8) << share;
}

// Of a prompt without a full page there is no subspace; of one page the budget is less than what is
// pinned.
TEST_P(LowRank, ShortPrompts) {
  const auto made = Make(Turned());
  const std::string rest = "merge=softmax_max,generated=paged";
  for (const std::string kind : {"shadowkv(rank=64,outliers=0,", "arkvale("}) {
    for (const std::string budget : {"budget=6p,", "budget=2p,min=1,sinks=0,window=0,"}) {
      for (const uint32_t tokens : {5u, 9u}) {
        SCOPED_TRACE(absl::StrCat(kind, budget, tokens));
        Feeder feeder(made->worker(), &text_);
        ASSERT_OK(feeder.Prefill(absl::StrCat(kind, budget, rest, ")"), tokens));
        EXPECT_EQ(feeder.Info().budget_pages, budget[7] - '0') << "not that of so short a prompt";
        for (uint32_t step = 0; step < 70; ++step) {
          ASSERT_OK(feeder.Step(step));
          ExpectNaive(text_, feeder, absl::StrCat("arkvale(", budget, rest, ")"),
                      page::DigestKind::kMinMax, tokens, step, 1e-4);
        }
      }
    }
  }
}

TEST_P(LowRank, RefusalsSayWhatIsAllowed) {
  EXPECT_THAT(Refused(kSmall, "shadowkv(rank=8)"), HasSubstr("allowed with geometry.rope"));
  EXPECT_THAT(Refused(Turned(), "shadowkv(rank=65)"), HasSubstr("rank is 65, allowed: 1..64"));
  EXPECT_THAT(Refused(Turned(), "shadowkv"), HasSubstr("rank is 160"));
}

class LowRankInTheStore : public LowRank {
 protected:
  // Of the same store, one worker that scores and one that does not.
  std::unique_ptr<WorkerUnderTest> Other(worker::RecallPath path, page::DigestKind digest) {
    WorkerSetting setting = GetParam();
    setting.path = path;
    worker::WorkerOptions options;
    options.geometry = Turned();
    options.digest_kind = digest;
    options.prefetch_patience = absl::Seconds(10);
    auto made = MakeWorker(setting, store_.get(), options, 1024);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? std::move(*made) : nullptr;
  }
  // Steps of both, alike to the bit, as long as no prefetch is late. Of generated pages that age it
  // would depend on when they are saved.
  void ExpectAlike(const std::string& policy, page::DigestKind digest, uint64_t* prefetched) {
    SCOPED_TRACE(absl::StrCat(policy, ", ", base::Sv(page::Info(digest).name)));
    const auto here = Other(worker::RecallPath::kWorker, digest);
    const auto there = Other(worker::RecallPath::kStore, digest);
    Feeder scores(here->worker(), &text_), asks(there->worker(), &text_);
    ASSERT_OK(scores.Prefill(policy, kPrompt));
    ASSERT_OK(asks.Prefill(policy, kPrompt));
    for (uint32_t step = 0; step < kSteps; ++step) {
      ASSERT_OK(scores.Step(step));
      ASSERT_OK(asks.Step(step));
      if (scores.Info().stats.late_heads + asks.Info().stats.late_heads > 0) break;
      ASSERT_EQ(scores.outputs(), asks.outputs()) << step;
      ASSERT_EQ(scores.lse(), asks.lse()) << step;
      const worker::SequenceStats a = scores.Info().stats, b = asks.Info().stats;
      EXPECT_EQ(a.selected_pages, b.selected_pages);
      EXPECT_EQ(b.hot_pages + b.recalled_pages, b.selected_pages);
      EXPECT_EQ(b.mass_bound_samples, 0u) << "nothing is proven of rebuilt keys";
    }
    *prefetched += asks.Info().stats.prefetch_used_pages;
    EXPECT_GT(asks.Info().stats.recalled_pages, 0u);
  }
};

TEST_P(LowRankInTheStore, BothPathsSelectTheSamePages) {
  uint64_t prefetched = 0;
  for (const std::string rest : {"hot=1", "hot=1,outliers=2,sinks=2,window=3,merge=softmax_mean",
                                 "hot=1,outliers=0.2,merge=max", "hot=1.5,victims=lru,merge=mean",
                                 "hot=1.5,victims=lru,hysteresis=0.5", "hot=1,tau=1"}) {
    ExpectAlike(absl::StrCat("shadowkv(budget=6p,rank=20,generated=pinned,", rest, ")"),
                page::DigestKind::kMinMax, &prefetched);
  }
  EXPECT_EQ(prefetched, 0u);
}

// What is fetched ahead comes without keys too.
TEST_P(LowRankInTheStore, BothPathsFetchTheSameAhead) {
  uint64_t prefetched = 0;
  ExpectAlike("shadowkv(budget=6p,rank=20,outliers=0.5,hot=1.5,tau=-1,ahead=1,generated=pinned)",
              page::DigestKind::kMinMax, &prefetched);
  EXPECT_GT(prefetched, 0u);
}

class LowRankReranked : public LowRankInTheStore {};

// The store looks at the keys themselves, which are not those that are attended to.
TEST_P(LowRankReranked, ASecondStageByExactKeys) {
  const std::string policy =
      "shadowkv(budget=6p,rank=20,outliers=0.5,generated=pinned,rerank=exact,multiplier=3";
  const Outputs outputs = Run(policy + ",hot=1)");
  EXPECT_TRUE(outputs == Run(policy + ",hot=3)", 61));
  EXPECT_TRUE(outputs == Run(policy + ",hot=2,tau=1)"));
  const std::string rest = "budget=6p,hot=1,rerank=exact,multiplier=1024,generated=pinned)";
  const Outputs low_rank = Run("shadowkv(rank=64,outliers=0," + rest);
  const Outputs exact = Run("arkvale(" + rest);
  ASSERT_EQ(low_rank.size(), exact.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    for (size_t l = 0; l < exact[i].size(); ++l) {
      const std::vector<double> truth(exact[i][l].begin(), exact[i][l].end());
      EXPECT_LE(RelativeError(low_rank[i][l], truth), 1e-4) << i << ", " << l;
    }
  }
}

TEST_P(LowRankReranked, BothPathsSelectTheSamePagesBySketches) {
  uint64_t prefetched = 0;
  for (const std::string rest : {"hot=1,outliers=0.5", "hot=1.5,outliers=2,multiplier=2,merge=max",
                                 "hot=1,outliers=0.5,sinks=3,multiplier=1024"}) {
    ExpectAlike(
        absl::StrCat("shadowkv(budget=6p,rank=20,generated=pinned,rerank=sketch,", rest, ")"),
        page::DigestKind::kMinMaxSign2, &prefetched);
  }
}

std::vector<WorkerSetting> SettingsOfTheStore(bool second_stage) {
  std::vector<WorkerSetting> settings = AllSettings();
  std::erase_if(settings, [&](const WorkerSetting& setting) {
    // The fake store has no second stage.
    return setting.path != worker::RecallPath::kStore || (second_stage && setting.store == "fake");
  });
  return settings;
}

INSTANTIATE_TEST_SUITE_P(Settings, LowRank, ::testing::ValuesIn(AllSettings()),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Settings, LowRankInTheStore,
                         ::testing::ValuesIn(SettingsOfTheStore(/*second_stage=*/false)),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Settings, LowRankReranked,
                         ::testing::ValuesIn(SettingsOfTheStore(/*second_stage=*/true)),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace varve::testing
