// Tables and JSON of evaluation results.
#include "tests/model/eval_report.h"

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::model {
namespace {

using testing::HasSubstr;
using testing::Not;

EvalRow MakeRow() {
  EvalRow row{.policy = {"arkvale", 32, 0.1}, .task = "vt", .length = 4096};
  row.prompts = 20;
  row.prompts_right = 18;
  row.answers = 60;
  row.answers_right = 57;
  row.decode_steps = 100;
  row.decode_seconds = 0.25;
  row.stats.pages_selected = 7800;
  row.stats.pages_hot = 5850;
  row.stats.pages_recalled = 1950;
  row.stats.bytes_recalled = 1950 * 16384;
  row.stats.mass_kept_sum = 9.5;
  row.stats.mass_samples = 10;
  row.stats.mass_bound_sum = 1.5;
  row.stats.mass_bound_samples = 2;
  row.stats.mass_estimate_sum = 3.5;
  row.stats.mass_estimate_samples = 4;
  row.stats.stages["score"] = {100, 0.002};
  return row;
}

TEST(EvalReport, JsonHasEveryFieldOfARow) {
  const EvalRow rows[] = {MakeRow()};
  const auto json = nlohmann::json::parse(RenderJson(rows));
  ASSERT_EQ(json["results"].size(), 1u);
  const auto expected = nlohmann::json::parse(R"({
    "policy": "arkvale", "page_tokens": 32, "budget": 0.1, "task": "vt", "length": 4096,
    "prompts": 20, "prompts_right": 18, "answers": 60, "answers_right": 57, "accuracy": 0.95,
    "decode_steps": 100, "decode_us_per_step": 2500.0, "pages_selected_per_step": 78.0,
    "pages_recalled_per_step": 19.5, "bytes_per_step": 319488.0, "pages_evicted": 0,
    "hot_hit_ratio": 0.75, "attention_mass_kept": 0.95,
    "attention_mass_estimate": 0.875, "attention_mass_bound": 0.75, "stage_us_per_step": {"score": 20.0}})");
  EXPECT_EQ(json["results"][0], expected);
}

TEST(EvalReport, WhatWasNotMeasuredIsNullAndADash) {
  const EvalRow rows[] = {{.policy = {"full", 32, 1.0}, .task = "agg", .length = 1024}};
  const auto row = nlohmann::json::parse(RenderJson(rows))["results"][0];
  EXPECT_TRUE(row["hot_hit_ratio"].is_null());
  for (const char* mass :
       {"attention_mass_kept", "attention_mass_estimate", "attention_mass_bound"}) {
    EXPECT_TRUE(row[mass].is_null()) << mass;
  }
  EXPECT_EQ(row["accuracy"], 0);
  EXPECT_EQ(row["pages_recalled_per_step"], 0);
  EXPECT_THAT(RenderTables(rows), HasSubstr("     -"));
  EXPECT_THAT(RenderTables(rows), Not(HasSubstr("us/step")));
}

TEST(EvalReport, SpeculationIsShownWhereThereIsSome) {
  EvalRow row = MakeRow();
  EXPECT_THAT(RenderTables({&row, 1}), Not(HasSubstr("hidden")));
  row.stats.pages_ahead = 1950 * 3;
  row.stats.bytes_wasted = 102400 * 5;
  row.stats.heads_kept = 900;
  row.stats.heads_corrected = 100;
  const std::string text = RenderTables({&row, 1});
  for (const char* part : {"hidden", "75.0 %", "corrected", "10.0 %", "wasted KiB/step", "5.0"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  const auto json = nlohmann::json::parse(RenderJson({&row, 1}))["results"][0];
  EXPECT_EQ(json["hidden_ratio"], 0.75);
  EXPECT_EQ(json["corrected_ratio"], 0.1);
  EXPECT_EQ(json["wasted_bytes_per_step"], 5120.0);
}

TEST(EvalReport, MemoryIsShownWhereAFormulaTellsIt) {
  EvalRow row = MakeRow();
  row.stats.memory_bytes = {{"rows", 3200}, {"hot", 800}};
  row.stats.memory_tokens = 10;
  EXPECT_THAT(RenderTables({&row, 1}), Not(HasSubstr("by formula")));
  row.stats.memory_formula_bytes = 4100;
  const std::string text = RenderTables({&row, 1});
  for (const char* part : {"by formula", "rows", "320.0", "80.0", "400.0", "410.0"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  const auto json = nlohmann::json::parse(RenderJson({&row, 1}))["results"][0];
  EXPECT_EQ(json["memory_bytes_per_token_and_layer"],
            nlohmann::json::parse(R"({"rows": 320.0, "hot": 80.0, "by_formula": 410.0})"));
}

TEST(EvalReport, NoRowsAreAnEmptyList) {
  EXPECT_TRUE(nlohmann::json::parse(RenderJson({}))["results"].is_array());
}

TEST(EvalReport, TablesShowAccuracyAndStages) {
  EvalRow other = MakeRow();
  other.task = "agg";
  other.stats.stages.clear();
  const EvalRow rows[] = {MakeRow(), other};
  const std::string text = RenderTables(rows);
  for (const char* part : {"57/60", "95.0 %", "19.5", "312.0", "75.0 %", "2.50", "score us/step"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

}  // namespace
}  // namespace varve::model
