// The evaluation end to end on reference backends: the published numbers of the model come out.
#include "tests/model/eval_core.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/selection_backend.h"

namespace varve::model {
namespace {

using testing::HasSubstr;

class ReferenceProvider final : public BackendProvider {
 public:
  explicit ReferenceProvider(const TinyModel& model) : model_(model) {}
  absl::StatusOr<std::unique_ptr<KvBackend>> Open(const PolicySpec& policy) override {
    ++opened;
    return SelectionBackend::Make(model_.config(), model_.kernels(), policy);
  }
  int opened = 0;

 private:
  const TinyModel& model_;
};

class Eval : public testing::Test {
 protected:
  absl::StatusOr<std::vector<EvalRow>> Run(EvalOptions options) {
    options.data_dir = VARVE_TEST_DATA_DIR;
    return RunEval(model_, options, provider_, nullptr);
  }
  void ExpectRefused(const EvalOptions& options, absl::StatusCode code,
                     const std::string& message) {
    const absl::Status status = Run(options).status();
    EXPECT_EQ(status.code(), code);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  const TinyModel model_ = TinyModel::Load(VARVE_TEST_DATA_DIR).value();
  ReferenceProvider provider_{model_};
};

TEST_F(Eval, FullAttentionAnswersEverything) {
  const auto rows = Run({.tasks = {"niah_single", "niah_multikey", "niah_multiquery", "vt", "agg"},
                         .lengths = {1024},
                         .policies = {{"full", 32, 1.0}},
                         .max_prompts = 12});
  ASSERT_TRUE(rows.ok()) << rows.status();
  ASSERT_EQ(rows->size(), 5u);
  for (const EvalRow& row : *rows) {
    SCOPED_TRACE(row.task);
    EXPECT_EQ(row.prompts, 12u);
    EXPECT_EQ(row.prompts_right, 12u);
    EXPECT_EQ(row.answers_right, row.answers);
    EXPECT_EQ(row.Accuracy(), 1.0);
    EXPECT_GT(row.decode_steps, row.answers);
    ASSERT_GT(row.stats.mass_samples, 0u);
    EXPECT_NEAR(row.stats.mass_kept_sum / row.stats.mass_samples, 1, 1e-4);
  }
  EXPECT_EQ((*rows)[2].answers, 12u * 8u);
  EXPECT_EQ((*rows)[3].answers, 12u * 3u);
}

TEST_F(Eval, GeneratedTokensAreRememberedLikeThePrompt) {
  for (const uint32_t generated : {300u, 990u}) {
    const auto rows = Run({.tasks = {"niah_multikey"},
                           .lengths = {1024},
                           .policies = {{"full", 32, 1.0}},
                           .max_prompts = 2,
                           .generated_tokens = generated});
    ASSERT_TRUE(rows.ok()) << rows.status();
    const EvalRow& row = rows->front();
    EXPECT_EQ(row.answers_right, row.answers);
    EXPECT_GT(row.decode_steps, 2 * generated);
    EXPECT_LT(row.decode_steps, 2 * (generated + 100));
  }
  ExpectRefused({.tasks = {"niah_multikey"},
                 .lengths = {1024},
                 .policies = {{"full", 32, 1.0}},
                 .max_prompts = 1,
                 .generated_tokens = 5000},
                absl::StatusCode::kInvalidArgument, "generated tokens are 5000, allowed with");
}

TEST_F(Eval, FullAttentionAnswersEverythingAt4096) {
  const auto rows = Run({.tasks = {"niah_multikey", "vt"},
                         .lengths = {4096},
                         .policies = {{"full", 32, 1.0}},
                         .max_prompts = 3});
  ASSERT_TRUE(rows.ok()) << rows.status();
  for (const EvalRow& row : *rows) EXPECT_EQ(row.answers_right, row.answers) << row.task;
}

// The model's published numbers, from another implementation: 100 prompts, answer tokens right.
TEST_F(Eval, ReproducesThePublishedCountsOnMultikey1024) {
  const auto rows = Run({.tasks = {"niah_multikey"},
                         .lengths = {1024},
                         .policies = {{"full", 32, 1.0},
                                      {"stream", 32, 0.1},
                                      {"arkvale-max", 32, 0.1},
                                      {"arkvale-max", 16, 0.1},
                                      {"oracle", 32, 0.1}},
                         .mass_sample_every = 0});
  ASSERT_TRUE(rows.ok()) << rows.status();
  std::vector<uint64_t> right;
  for (const EvalRow& row : *rows) {
    EXPECT_EQ(row.answers, 100u);
    EXPECT_EQ(row.prompts_right, row.answers_right);
    right.push_back(row.answers_right);
  }
  EXPECT_THAT(right, testing::ElementsAre(100, 9, 67, 99, 100));
}

TEST_F(Eval, DroppingPagesCollapsesAtEveryTaskThatNeedsThem) {
  const auto rows = Run({.tasks = {"niah_single", "niah_multikey", "niah_multiquery", "vt"},
                         .lengths = {1024},
                         .policies = {{"stream", 32, 0.1}},
                         .max_prompts = 20});
  ASSERT_TRUE(rows.ok()) << rows.status();
  for (const EvalRow& row : *rows) EXPECT_LT(row.Accuracy(), 0.35) << row.task;
}

TEST_F(Eval, SharingAPrefillChangesNothing) {
  const EvalOptions together{.tasks = {"vt"},
                             .lengths = {1024},
                             .policies = {{"stream", 32, 0.1}, {"arkvale-max", 32, 0.1}},
                             .max_prompts = 5};
  EvalOptions alone = together;
  alone.sequences_at_once = 1;
  alone.chunk_tokens = 100;
  const auto a = Run(together).value();
  EXPECT_EQ(provider_.opened, 10);
  const auto b = Run(alone).value();
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].answers_right, b[i].answers_right) << a[i].policy.name;
    EXPECT_EQ(a[i].stats.pages_selected, b[i].stats.pages_selected) << a[i].policy.name;
  }
}

TEST_F(Eval, ReportsProgressOncePerPromptAndPolicy) {
  std::vector<std::string> seen;
  const EvalOptions options{.data_dir = VARVE_TEST_DATA_DIR,
                            .tasks = {"vt", "agg"},
                            .lengths = {1024},
                            .policies = {{"full", 32, 1.0}, {"stream", 32, 0.1}},
                            .max_prompts = 1};
  const auto progress = [&](uint64_t done, uint64_t total, const std::string& what) {
    seen.push_back(absl::StrCat(done, "/", total, " ", what));
  };
  ASSERT_TRUE(RunEval(model_, options, provider_, progress).ok());
  EXPECT_THAT(seen, testing::ElementsAre("0/4 ", "1/4 vt 1024", "2/4 vt 1024", "3/4 agg 1024",
                                         "4/4 agg 1024"));
}

TEST_F(Eval, RefusesWhatItCannotRun) {
  const PolicySpec full{"full", 32, 1.0};
  ExpectRefused({.tasks = {"vt"}, .lengths = {1024}}, absl::StatusCode::kInvalidArgument,
                "at least one task, length and policy");
  ExpectRefused({.tasks = {"vt"}, .lengths = {1000}, .policies = {full}},
                absl::StatusCode::kNotFound, "eval_vt_1000.jsonl.gz");
  ExpectRefused({.tasks = {"vt"}, .lengths = {1024}, .policies = {{"nope", 32, 0.1}}},
                absl::StatusCode::kInvalidArgument,
                "vt 1024 prompt 0: policy nope: unknown policy");
  ExpectRefused(
      {.tasks = {"vt"}, .lengths = {1024}, .policies = {full}, .max_prompts = 1, .chunk_tokens = 0},
      absl::StatusCode::kInvalidArgument, "chunk_tokens is 0");
}

TEST(CrossPolicies, GivesFullOnceAndTheOthersEveryBudget) {
  const std::string names[] = {"full", "quest"};
  const double budgets[] = {0.1, 0.2};
  const auto policies = CrossPolicies(names, budgets, 16);
  ASSERT_EQ(policies.size(), 3u);
  EXPECT_EQ(policies[0].budget, 1.0);
  EXPECT_EQ(policies[2].name, "quest");
  EXPECT_EQ(policies[2].budget, 0.2);
  EXPECT_EQ(policies[2].page_tokens, 16u);
}

}  // namespace
}  // namespace varve::model
