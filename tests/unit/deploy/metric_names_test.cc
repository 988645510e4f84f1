#include "tests/support/metric_names.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/deploy_queries.h"

namespace varve::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TEST(SeriesInQuery, LeavesOutFunctionsLabelsRangesAndVariables) {
  EXPECT_THAT(SeriesInQuery("varve_sessions"), ElementsAre("varve_sessions"));
  EXPECT_THAT(SeriesInQuery("histogram_quantile(0.99, sum by (tier, le) "
                            "(rate(varve_a_bucket{x=~\"$y\",z=\"up\"}[5m]))) > 1"),
              ElementsAre("varve_a_bucket"));
  EXPECT_THAT(SeriesInQuery("a_total / on (instance) group_left b_total offset 1h"),
              ElementsAre("a_total", "b_total"));
  EXPECT_THAT(SeriesInQuery("sum(rate(c_total[$__rate_interval])) by (d) and e > 2"),
              ElementsAre("c_total", "e"));
}

TEST(SeriesProblem, KnowsHistogramsAndMissingNames) {
  const Families families = {{"a_seconds", "histogram"}, {"b_total", "counter"}};
  for (const char* good :
       {"up", "b_total", "a_seconds_bucket", "a_seconds_sum", "a_seconds_count"}) {
    EXPECT_EQ(SeriesProblem(good, families), "") << good;
  }
  EXPECT_EQ(SeriesProblem("b_totals", families), "b_totals does not exist");
  EXPECT_EQ(SeriesProblem("b_total_sum", families), "b_total_sum does not exist");
  EXPECT_EQ(SeriesProblem("a_seconds", families),
            "a_seconds is a histogram: name its _bucket, _sum or _count");
}

TEST(Families, AreReadFromTheDocumentAndFromTheExposition) {
  const std::string markdown =
      "# M\n## one\n| name | type | labels | meaning |\n|---|---|---|---|\n| `a` | gauge | | x |\n"
      "## two\n| `b_total` | counter | c | `d` |\n";
  EXPECT_THAT(DocumentedFamilies(markdown, "one"), ElementsAre(Pair("a", "gauge")));
  EXPECT_THAT(DocumentedFamilies(markdown, ""),
              ElementsAre(Pair("a", "gauge"), Pair("b_total", "counter")));
  EXPECT_THAT(DocumentedLabels(markdown, ""), ElementsAre(Pair("b_total", ElementsAre("c"))));
  const std::string text =
      "# HELP a x\n# TYPE a gauge\na 0\n# TYPE b histogram\nb_bucket{c=\"d\",e=\"f g\",le=\"1\"} "
      "0\n";
  EXPECT_THAT(ExposedFamilies(text), ElementsAre(Pair("a", "gauge"), Pair("b", "histogram")));
  EXPECT_THAT(ExposedLabels(text), ElementsAre(Pair("b", ElementsAre("c", "e"))));
}

TEST(DeployQueries, NameOnlyDocumentedMetrics) {
  const Families families = DocumentedFamilies(ReadFile(VARVE_ROOT "/docs/metrics.md"), "");
  ASSERT_GT(families.size(), 30u);
  const std::vector<Query> queries = DeployQueries(VARVE_ROOT);
  ASSERT_GT(queries.size(), 30u);
  for (const Query& query : queries) {
    const auto series = SeriesInQuery(query.expression);
    EXPECT_FALSE(series.empty()) << query.where << ": " << query.expression;
    for (const std::string& name : series)
      EXPECT_EQ(SeriesProblem(name, families), "") << query.where;
  }
}

}  // namespace
}  // namespace varve::testing
