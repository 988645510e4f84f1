#include "gpu_worker/policy.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::worker {
namespace {

using ::testing::HasSubstr;

TEST(Policy, NamesAloneTakeTheDefaults) {
  const auto policy = ParsePolicy("arkvale");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->kind, PolicyKind::kArkVale);
  EXPECT_EQ(policy->budget_fraction, 1.0);
  EXPECT_EQ(policy->min_pages, 3u);
  EXPECT_EQ(policy->sinks, 1u);
  EXPECT_EQ(policy->window, 1u);
  EXPECT_EQ(policy->hot, 2.0);
  EXPECT_EQ(policy->victims, Victims::kScore);
  EXPECT_EQ(policy->smoothing, 0.5);
  EXPECT_EQ(policy->hysteresis, 0);
  EXPECT_FALSE(policy->adapts());
  EXPECT_EQ(policy->ceiling, 4);
  EXPECT_EQ(policy->merge, page::ScoreMerge::kSoftmaxMean);
  EXPECT_FALSE(policy->tau.has_value());
  EXPECT_TRUE(policy->generated_pinned);
}

TEST(Policy, ReadsEveryParameter) {
  const auto policy = ParsePolicy(
      " arkvale( budget=0.25, min=5,sinks=2,window=4 "
      ",hot=1.5,merge=softmax_mean,rerank=exact,multiplier=6,"
      "target=0.99,ceiling=3,generated=paged ) ");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->budget_fraction, 0.25);
  EXPECT_EQ(policy->min_pages, 5u);
  EXPECT_EQ(policy->sinks, 2u);
  EXPECT_EQ(policy->window, 4u);
  EXPECT_EQ(policy->hot, 1.5);
  EXPECT_EQ(policy->merge, page::ScoreMerge::kSoftmaxMean);
  EXPECT_EQ(policy->rerank, page::Rerank::kExact);
  EXPECT_EQ(policy->multiplier, 6);
  EXPECT_EQ(policy->target, 0.99);
  EXPECT_EQ(policy->ceiling, 3);
  EXPECT_FALSE(policy->generated_pinned);
}

TEST(Policy, ReadsWhatRulesTheHotSet) {
  const auto policy = ParsePolicy("arkvale(victims=lru,smoothing=0.5,hysteresis=0.25)");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_EQ(policy->victims, Victims::kLru);
  EXPECT_EQ(policy->smoothing, 0.5);
  EXPECT_EQ(policy->hysteresis, 0.25);
}

TEST(Policy, ReadsWhatLowRankKeysAre) {
  const auto policy = ParsePolicy("shadowkv");
  ASSERT_TRUE(policy.ok()) << policy.status();
  EXPECT_TRUE(policy->low_rank() && policy->recalls() && policy->evicts() && policy->selects());
  EXPECT_EQ(policy->rank, 160u);
  EXPECT_EQ(policy->energy, 0);
  EXPECT_EQ(policy->outliers, 0.1875);
  EXPECT_EQ(policy->refresh, 0.1);
  EXPECT_EQ(policy->merge, page::ScoreMerge::kSoftmaxMax);
  EXPECT_FALSE(policy->generated_pinned);
  const auto set = ParsePolicy(
      "shadowkv(rank=12,energy=0.98,outliers=0,merge=softmax_mean,generated=pinned,hot=1)");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->rank, 12u);
  EXPECT_EQ(set->energy, 0.98);
  EXPECT_EQ(set->outliers, 0);
  EXPECT_EQ(set->merge, page::ScoreMerge::kSoftmaxMean);
  EXPECT_TRUE(set->generated_pinned);
  EXPECT_FALSE(ParsePolicy("arkvale(rank=12)").ok());
  for (const char* bad :
       {"rank=0", "rank=8193", "rank=x", "energy=0", "energy=1.1", "energy=nan", "outliers=-1",
        "outliers=17", "outliers=nan", "refresh=0", "refresh=2", "refresh=x"}) {
    EXPECT_THAT(std::string(ParsePolicy(std::string("shadowkv(") + bad + ")").status().message()),
                HasSubstr("is not allowed"));
  }
}

TEST(Policy, TextFormComesBack) {
  for (const char* text :
       {"full", "streaming(budget=0.1)", "quest(budget=64p,merge=mean)",
        "arkvale(budget=0.05,hot=3,sinks=0,window=2,generated=paged)",
        "arkvale(rerank=exact,multiplier=1.5)", "arkvale(tau=-1)", "arkvale(tau=0.9,ahead=1)",
        "arkvale(rerank=exact,target=0.9)", "arkvale(victims=lru)", "arkvale(smoothing=0)",
        "arkvale(hysteresis=0.5,smoothing=0.9)", "arkvale(hysteresis=1,merge=max,rerank=exact)",
        "quest(target=1,ceiling=1.5)", "shadowkv",
        "shadowkv(rank=7,energy=0.5,outliers=0.25,refresh=0.5)"}) {
    const auto policy = ParsePolicy(text);
    ASSERT_TRUE(policy.ok()) << text << policy.status();
    const auto again = ParsePolicy(policy->ToString());
    ASSERT_TRUE(again.ok()) << policy->ToString() << again.status();
    EXPECT_EQ(again->ToString(), policy->ToString());
  }
}

// A policy made by hand is checked by its text.
TEST(Policy, WhatIsNotAllowedShowsInTheText) {
  for (const double hysteresis : {-5.0, std::nan("")}) {
    Policy policy{.kind = PolicyKind::kArkVale, .hysteresis = hysteresis};
    EXPECT_FALSE(ParsePolicy(policy.ToString()).ok()) << policy.ToString();
  }
}

TEST(Policy, BudgetInPagesAndFractions) {
  EXPECT_EQ(ParsePolicy("quest(budget=0.1)")->BudgetPages(128), 13u);
  EXPECT_EQ(ParsePolicy("quest(budget=0.1)")->BudgetPages(10), 3u);
  EXPECT_EQ(ParsePolicy("quest(budget=0.1)")->BudgetPages(2), 2u);
  EXPECT_EQ(ParsePolicy("quest(budget=64p)")->BudgetPages(128), 64u);
  EXPECT_EQ(ParsePolicy("quest(budget=64p)")->BudgetPages(12), 12u);
  EXPECT_EQ(ParsePolicy("full")->BudgetPages(77), 77u);
}

struct Wrong {
  const char* text;
  const char* message;
};
class PolicyErrors : public ::testing::TestWithParam<Wrong> {};

TEST_P(PolicyErrors, NameTheFaultAndWhatIsAllowed) {
  const auto policy = ParsePolicy(GetParam().text);
  EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument) << GetParam().text;
  EXPECT_THAT(std::string(policy.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, PolicyErrors,
    ::testing::Values(
        Wrong{"", "known: full, streaming, quest, arkvale"},
        Wrong{"h2o(budget=1)", "unknown policy 'h2o', known: full, streaming, quest, arkvale"},
        Wrong{"full(budget=0.1)", "unknown parameter 'budget' of policy full, known: none"},
        Wrong{"quest(hot=2)",
              "known: budget, min, sinks, window, merge, target, ceiling, generated"},
        Wrong{"arkvale(budgte=0.1)", "unknown parameter 'budgte'"},
        Wrong{"arkvale(budget=0)", "a fraction 0 < f <= 1"},
        Wrong{"arkvale(budget=1.5)", "a fraction 0 < f <= 1"},
        Wrong{"arkvale(budget=nan)", "a fraction 0 < f <= 1"},
        Wrong{"arkvale(budget=0p)", "or '64p' pages"},
        Wrong{"arkvale(budget=-3p)", "or '64p' pages"},
        Wrong{"arkvale(budget)", "a fraction 0 < f <= 1"},
        Wrong{"arkvale(min=0)", "pages, 1..1048576"},
        Wrong{"arkvale(sinks=-1)", "pages, 0..1048576"},
        Wrong{"arkvale(window=x)", "pages, 0..1048576"},
        Wrong{"arkvale(hot=0.5)", "a multiple of the budget, 1..1000"},
        Wrong{"arkvale(victims=fifo)", "score, lru"},
        Wrong{"arkvale(smoothing=0.99999999999)", "a weight, 0..0.999"},
        Wrong{"arkvale(smoothing=nan)", "a weight, 0..0.999"},
        Wrong{"arkvale(hysteresis=-1)", "hysteresis=-1 is not allowed, allowed: 0..100"},
        Wrong{"arkvale(hysteresis=101)", "0..100"},
        Wrong{"quest(hysteresis=1)", "unknown parameter 'hysteresis'"},
        Wrong{"arkvale(hysteresis=1,target=0.9)", "target and hysteresis exclude each other"},
        Wrong{"arkvale(hysteresis=1,merge=mean)",
              "merge=mean is not allowed, allowed: softmax_mean, softmax_max or a second stage"},
        Wrong{"arkvale(merge=sum)", "softmax_mean, softmax_max, max, mean"},
        Wrong{"arkvale(rerank=best)", "none, exact, sketch"},
        Wrong{"arkvale(multiplier=0.5)", "a multiple of the budget, 1..1024"},
        Wrong{"quest(rerank=exact)", "unknown parameter 'rerank'"},
        Wrong{"arkvale(tau=1.1)", "a cosine, -1..1"}, Wrong{"arkvale(tau=nan)", "a cosine, -1..1"},
        Wrong{"arkvale(ahead=0)", "a multiple of the budget, 0 < f <= 1"},
        Wrong{"quest(tau=0.5)", "unknown parameter 'tau'"},
        Wrong{"arkvale(target=0)", "a share 0 < t <= 1 of the attention mass"},
        Wrong{"arkvale(target=1.01)", "a share 0 < t <= 1 of the attention mass"},
        Wrong{"arkvale(target=nan)", "a share 0 < t <= 1 of the attention mass"},
        Wrong{"quest(ceiling=0.9)", "a multiple of the budget, 1..1024"},
        Wrong{"quest(target=0.9,merge=max)",
              "merge=max is not allowed, allowed: softmax_mean with a target"},
        Wrong{"streaming(target=0.9)", "unknown parameter 'target'"},
        Wrong{"arkvale(target=0.9,tau=0.5)", "target and tau exclude each other"},
        Wrong{"arkvale(generated=kept)", "pinned, paged"},
        Wrong{"arkvale(sinks=1,sinks=2)", "sinks given twice"},
        Wrong{"arkvale(sinks=1", "lacks its closing ')'"},
        Wrong{"arkvale(sinks=1,)", "unknown parameter ''"}));

}  // namespace
}  // namespace varve::worker
