// docs/metrics.md, the dashboards and the rules against what a running worker and its store expose.
#include <string>

#include "gtest/gtest.h"
#include "tests/integration/metrics/exposed_metrics.h"
#include "tests/support/deploy_queries.h"
#include "tests/support/metric_names.h"
#include "tests/support/store_process.h"

namespace varve::testing {
namespace {

TEST(WorkerMetrics, AreThoseOfTheDocumentAndAllThatQueriesNeed) {
  auto store = StoreProcess::Start();
  ASSERT_TRUE(store.ok()) << store.status();
  auto worker = StoreProcess::StartProgram(
      "varve-worker", {"--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", "--pool_bytes=64MiB",
                       "--store=" + (*store)->grpc_address()});
  ASSERT_TRUE(worker.ok()) << worker.status();
  const std::string text = (*worker)->HttpGet("/metrics");
  ASSERT_FALSE(text.empty());
  ExpectAsDocumented(text, "varve-worker");
  ExpectEveryFamilyHasASeries(text);

  Families exposed = ExposedFamilies((*store)->HttpGet("/metrics"));
  exposed.merge(ExposedFamilies(text));
  for (const Query& query : DeployQueries(VARVE_ROOT)) {
    for (const std::string& series : SeriesInQuery(query.expression)) {
      EXPECT_EQ(SeriesProblem(series, exposed), "") << query.where;
    }
  }
}

}  // namespace
}  // namespace varve::testing
