// varve-eval end to end: store and worker as processes, answers compared with the same policies on
// plain memory.
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "client/process/child_process.h"
#include "tests/integration/tools/run_tool.h"
#include "tests/model/eval_core.h"
#include "tests/model/selection_backend.h"

namespace varve::testing {
namespace {

constexpr int kPrompts = 8;

class Reference final : public model::BackendProvider {
 public:
  explicit Reference(const model::TinyModel& model) : model_(model) {}
  absl::StatusOr<std::unique_ptr<model::KvBackend>> Open(const model::PolicySpec& policy) override {
    return model::SelectionBackend::Make(model_.config(), model_.kernels(), policy);
  }

 private:
  const model::TinyModel& model_;
};

// Answers right of a policy on plain memory.
uint64_t ExpectedRight(const std::string& policy, const std::string& task) {
  const auto model = model::TinyModel::Load(VARVE_TEST_DATA_DIR);
  Reference reference(*model);
  model::EvalOptions options;
  options.data_dir = VARVE_TEST_DATA_DIR;
  options.tasks = {task};
  options.lengths = {1024};
  options.policies = {{policy, 32, 0.1}};
  options.max_prompts = kPrompts;
  options.mass_sample_every = 0;
  const auto rows =
      model::RunEval(*model, options, reference, [](uint64_t, uint64_t, const std::string&) {});
  EXPECT_TRUE(rows.ok()) << rows.status();
  return rows.ok() ? rows->at(0).answers_right : 0;
}

std::string Flags(const std::string& more) {
  return "--lengths 1024 --budgets 0.1 --policy-parameters merge=max --json --prompts " +
         std::to_string(kPrompts) + " " + more;
}

const nlohmann::json* Row(const nlohmann::json& results, const std::string& task,
                          const std::string& policy) {
  for (const auto& row : results) {
    if (row["task"] == task && row["policy"] == policy) return &row;
  }
  ADD_FAILURE() << "no row of " << task << " " << policy;
  return nullptr;
}

class EvalDeployments : public ::testing::TestWithParam<const char*> {};

TEST_P(EvalDeployments, AnswersAsOnPlainMemory) {
  const auto results = Results(RunTool(
      "varve-eval",
      Flags(std::string("--tasks niah_multikey,vt --policies full,streaming,quest,arkvale ") +
            GetParam())));
  for (const std::string task : {"niah_multikey", "vt"}) {
    const uint64_t expected = ExpectedRight("arkvale-max", task);
    const auto* full = Row(results, task, "full");
    const auto* streaming = Row(results, task, "streaming");
    const auto* quest = Row(results, task, "quest");
    const auto* arkvale = Row(results, task, "arkvale");
    ASSERT_TRUE(full && streaming && quest && arkvale);
    EXPECT_EQ((*full)["accuracy"], 1.0);
    EXPECT_LT((*streaming)["accuracy"], 0.5);
    EXPECT_EQ((*quest)["answers_right"], expected);
    EXPECT_EQ((*arkvale)["answers_right"], expected);
    EXPECT_EQ((*quest)["pages_recalled_per_step"], 0.0);
    EXPECT_GT((*arkvale)["pages_recalled_per_step"], 0.0);
    EXPECT_GT((*arkvale)["bytes_per_step"], 0.0);
    EXPECT_GT((*arkvale)["hot_hit_ratio"], 0.0);
    EXPECT_GT((*arkvale)["attention_mass_kept"], 0.5);
    EXPECT_EQ((*arkvale)["budget"], 0.1);
    EXPECT_EQ((*arkvale)["prompts"], kPrompts);
  }
}

INSTANTIATE_TEST_SUITE_P(All, EvalDeployments,
                         ::testing::Values("", "--recall-path store --transport tcp", "--linked",
                                           "--embedded"));

TEST(Eval, SaysWhatIsWrong) {
  for (const auto& [flags, expected] :
       {std::pair{"--tasks nosuch", "nosuch"}, std::pair{"--policies nosuch", "nosuch"},
        std::pair{"--budgets 2", "(0, 1]"}, std::pair{"--page-tokens 12", "page-tokens"},
        std::pair{"--no-such-flag", "no-such-flag"}}) {
    const ToolResult result =
        RunTool("varve-eval", std::string("--embedded --prompts 1 --lengths 1024 ") + flags);
    EXPECT_NE(result.exit_code, 0) << flags;
    EXPECT_NE(result.errors.find(expected), std::string::npos) << flags << ": " << result.errors;
  }
}

// Nothing listens at that address: whoever gets as far as looking for the store fails otherwise.
TEST(Eval, RefusesWrongNamesBeforeItStartsAnything) {
  for (const auto& [flags, expected] :
       {std::pair{"--policies bogus", "known: full"}, std::pair{"--tasks nope", "eval_vt_1024"},
        std::pair{"--lengths 777", "eval_vt_1024"}}) {
    const ToolResult result = RunTool("varve-eval", std::string("--store 127.0.0.1:1 ") + flags);
    EXPECT_EQ(result.exit_code, 2) << flags;
    EXPECT_NE(result.errors.find(expected), std::string::npos) << flags << ": " << result.errors;
  }
}

TEST(Eval, LeavesNothingAfterASignal) {
  std::string folder = (std::filesystem::temp_directory_path() / "eval-test-XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  setenv("TMPDIR", folder.c_str(), 1);
  client::ChildProcess::Options options;
  options.binary = "varve-eval";
  options.args = {"--lengths=1024", "--mass-sample-every=1"};
  options.wait_ready = false;
  const auto eval = client::ChildProcess::Start(options);
  unsetenv("TMPDIR");
  ASSERT_TRUE(eval.ok()) << eval.status();
  ASSERT_TRUE((*eval)->ReadLine(absl::Seconds(60)).ok());  // which processes it has started
  EXPECT_FALSE(std::filesystem::is_empty(folder));
  (*eval)->Signal(SIGINT);
  const auto code = (*eval)->Wait(absl::Seconds(60));
  ASSERT_TRUE(code.ok()) << code.status();
  EXPECT_EQ(*code, 130);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  std::filesystem::remove_all(folder);
}

TEST(Eval, ResultsThatDoNotArriveAreAFailure) {
  const ToolResult result = RunTool(
      "varve-eval",
      "--embedded --tasks niah_single --lengths 1024 --prompts 1 --policies full > /dev/full");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.errors.find("a full disk"), std::string::npos) << result.errors;
}

TEST(Eval, SaysSoonThatThereIsNoStore) {
  const auto start = std::chrono::steady_clock::now();
  const ToolResult result = RunTool("varve-eval", "--store 127.0.0.1:1");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.errors.find("127.0.0.1:1"), std::string::npos) << result.errors;
}

}  // namespace
}  // namespace varve::testing
