// What accuracy costs, as table and plot.
#include "tests/model/eval_curve.h"

#include <algorithm>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::model {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

EvalRow Row(const std::string& policy, double budget, uint64_t right, uint64_t bytes) {
  EvalRow row{.policy = {policy, 32, budget}, .task = "vt", .length = 1024};
  row.answers = 100;
  row.answers_right = right;
  row.decode_steps = 10;
  row.stats.bytes_recalled = bytes * 10 * 1024;
  return row;
}

TEST(EvalCurve, TheCheapestBudgetOfEqualAccuracyIsFound) {
  const std::vector<EvalRow> rows = {Row("full", 1, 100, 0),         Row("digests", 0.1, 60, 5),
                                     Row("digests", 0.5, 99, 40),    Row("digests", 0.8, 100, 60),
                                     Row("two-stage", 0.1, 100, 10), Row("two-stage", 0.05, 98, 5),
                                     Row("never", 0.9, 98, 90)};
  const std::string table = RenderEqualAccuracy(rows);
  EXPECT_THAT(table, HasSubstr("99 % of full"));
  EXPECT_THAT(table,
              HasSubstr("digests           50.0 %              5.0      40.0              4.0\n"));
  EXPECT_THAT(table,
              HasSubstr("two-stage         10.0 %              1.0      10.0              1.0\n"));
  EXPECT_THAT(table, HasSubstr("never      none of these\n"));
}

TEST(EvalCurve, NothingRecalledIsTheLeast) {
  for (const bool first : {false, true}) {
    std::vector<EvalRow> rows = {Row("full", 1, 100, 0), Row("hot", 0.5, 100, 0),
                                 Row("cold", 0.1, 90, 20), Row("cold", 0.4, 100, 40)};
    if (first) std::rotate(rows.begin() + 1, rows.begin() + 2, rows.end());
    const std::string table = RenderEqualAccuracy(rows);
    EXPECT_THAT(table, HasSubstr("hot     50.0 %              1.2       0.0                -\n"));
    EXPECT_THAT(table, HasSubstr("cold    40.0 %              1.0      40.0                -\n"));
  }
}

TEST(EvalCurve, WithoutFullOrBudgetsThereIsNothingToCompare) {
  EXPECT_EQ(RenderEqualAccuracy({}), "");
  const std::vector<EvalRow> alone = {Row("digests", 0.1, 60, 5), Row("digests", 0.5, 99, 40)};
  EXPECT_EQ(RenderEqualAccuracy(alone), "");
  const std::vector<EvalRow> once = {Row("full", 1, 100, 0), Row("digests", 0.5, 99, 40)};
  EXPECT_EQ(RenderEqualAccuracy(once), "");
}

TEST(EvalCurve, ThePlotHasALineForEachPolicyButFull) {
  const std::vector<EvalRow> rows = {Row("full", 1, 100, 0), Row("a<b", 0.5, 99, 40),
                                     Row("a<b", 0.1, 50, 20)};
  const std::string svg = RenderCurves(rows);
  EXPECT_THAT(svg, AllOf(HasSubstr("<svg"), HasSubstr("vt, 1024 tokens"), HasSubstr("a&lt;b"),
                         Not(HasSubstr(">full<"))));
  // The smaller budget first: half of the width and of the height, then the right edge, near the
  // top.
  EXPECT_THAT(svg, HasSubstr("points=\"380.0,170.0 700.0,32.8 \""));
}

}  // namespace
}  // namespace varve::model
