// The command line of varve-eval.
#include "tests/model/eval_args.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(EvalArgs, ReadsTheDocumentedCommandLine) {
  const auto args =
      ParseEvalArgs({"--policies", "full,arkvale", "--budgets", "0.1", "--page-tokens", "32",
                     "--tasks", "niah_multikey", "--lengths", "4096", "--prompts", "20", "--data",
                     "/sets", "--embedded", "--json"},
                    "/default");
  ASSERT_TRUE(args.ok()) << args.status();
  ASSERT_EQ(args->eval.policies.size(), 2u);
  EXPECT_EQ(args->eval.policies[0].name, "full");
  EXPECT_EQ(args->eval.policies[1].name, "arkvale");
  EXPECT_EQ(args->eval.policies[1].budget, 0.1);
  EXPECT_EQ(args->eval.policies[1].page_tokens, 32u);
  EXPECT_THAT(args->eval.tasks, ElementsAre("niah_multikey"));
  EXPECT_THAT(args->eval.lengths, ElementsAre(4096));
  EXPECT_EQ(args->eval.max_prompts, 20u);
  EXPECT_EQ(args->eval.data_dir, "/sets");
  EXPECT_EQ(args->model_dir, "/default");
  EXPECT_TRUE(args->deployment.embedded);
  EXPECT_TRUE(args->json);
}

TEST(EvalArgs, TellsTheVersion) {
  const auto args = ParseEvalArgs({"--version"}, "/");
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_TRUE(args->help);
  EXPECT_THAT(args->help_text, testing::MatchesRegex("varve-eval [0-9.]+ \\([0-9a-z]+\\)\n"));
}

TEST(EvalArgs, ListsReplaceTheDefaults) {
  const auto args = ParseEvalArgs(
      {"--budgets", "0.1,0.2", "--policies=quest", "--tasks", "vt,agg", "--lengths", "1024,4096"},
      "/");
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_EQ(args->eval.policies.size(), 2u);
  EXPECT_THAT(args->eval.tasks, ElementsAre("vt", "agg"));
  EXPECT_THAT(args->eval.lengths, ElementsAre(1024, 4096));
}

TEST(EvalArgs, DefaultsCoverEveryPolicyAndTask) {
  const auto args = ParseEvalArgs({}, "/default");
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_EQ(args->eval.policies.size(), 4u);
  EXPECT_EQ(args->eval.tasks.size(), 5u);
  EXPECT_FALSE(args->deployment.embedded);
}

TEST(EvalArgs, HelpNamesTheOptions) {
  const auto args = ParseEvalArgs({"--help"}, "/default");
  ASSERT_TRUE(args.ok()) << args.status();
  EXPECT_TRUE(args->help);
  for (const char* option : {"--policies", "--budgets", "--embedded", "--json", "/default"}) {
    EXPECT_THAT(args->help_text, HasSubstr(option));
  }
}

TEST(EvalArgs, RefusesWrongValues) {
  const auto refused = [](const std::vector<std::string>& args, const std::string& message) {
    const absl::Status status = ParseEvalArgs(args, "/").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << testing::PrintToString(args);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  refused({"--budget", "0.1"}, "--budget");
  refused({"--budgets", "0"}, "--budgets: 0, must be in (0, 1]");
  refused({"--budgets", "0.1,1.5"}, "--budgets: 1.5");
  refused({"--budgets", "nan"}, "--budgets: nan");
  refused({"--budgets", "ten"}, "ten");
  refused({"--page-tokens", "33"}, "33 not in {8,16,32}");
  refused({"--lengths", "0"}, "--lengths: 0");
  refused({"--lengths", "-1"}, "--lengths");
  refused({"--prompts", "-1"}, "-1");
  refused({"--threads", "0"}, "0");
  refused({"--policies", "full,,quest"}, "empty policy name");
  refused({"--policies", "full(budget=0.1"}, "unbalanced parentheses");
  refused({"--policies", "full,arkvale(hot=3,budget=0.05)"}, "budgets are given with --budgets");
  refused({"--transport", "inline"}, "inline needs --linked or --embedded");
  refused({"--pool-bytes", "1"}, "1: allowed 1MiB to 1TiB");
  refused({"--pool-bytes", "much"}, "--pool-bytes");
  refused({"--data"}, "--data");
}

TEST(EvalArgs, ASecondStageIsOfPoliciesThatRecall) {
  const auto args =
      ParseEvalArgs({"--policies", "full,quest,arkvale,shadowkv(hot=3),oracle", "--recall-path",
                     "store", "--rerank", "exact", "--multiplier", "6"},
                    "/");
  ASSERT_TRUE(args.ok()) << args.status();
  std::vector<std::string> names;
  for (const PolicySpec& policy : args->eval.policies) names.push_back(policy.name);
  EXPECT_THAT(names, testing::ElementsAre("full", "quest", "arkvale(rerank=exact,multiplier=6)",
                                          "shadowkv(hot=3,rerank=exact,multiplier=6)", "oracle"));
  EXPECT_THAT(std::string(ParseEvalArgs({"--rerank", "exact"}, "/").status().message()),
              HasSubstr("add --recall-path store"));
  EXPECT_FALSE(ParseEvalArgs({"--multiplier", "0"}, "/").ok());
}

TEST(EvalArgs, TheyTakeSizesAsEveryOtherProgramDoes) {
  EXPECT_EQ(ParseEvalArgs({"--pool-bytes", "1.5GiB"}, "/")->deployment.pool_bytes,
            uint64_t{3} << 29);
  EXPECT_EQ(ParseEvalArgs({"--linked", "--transport", "inline"}, "/")->deployment.transport,
            "inline");
}

TEST(SplitPolicies, KeepsParametersTogether) {
  EXPECT_THAT(SplitPolicies("full,arkvale(hot=3,sinks=2),quest").value(),
              ElementsAre("full", "arkvale(hot=3,sinks=2)", "quest"));
  EXPECT_FALSE(SplitPolicies("a)(").ok());
  EXPECT_FALSE(SplitPolicies("a((b))").ok());
  EXPECT_FALSE(SplitPolicies("").ok());
}

}  // namespace
}  // namespace varve::model
