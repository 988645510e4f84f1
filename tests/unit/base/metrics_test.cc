#include "kvstore/base/metrics.h"

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::base {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, SeriesExistWithValueZero) {
  Metrics metrics;
  metrics.Counter("varve_get_objects_total", "Objects asked for.",
                  {{"result", "hit"}, {"tier", "host"}});
  metrics.Gauge("varve_sessions", "Open sessions.");
  const std::string text = metrics.Render();
  EXPECT_THAT(text, HasSubstr("# HELP varve_get_objects_total Objects asked for.\n# TYPE "
                              "varve_get_objects_total counter\n"));
  EXPECT_THAT(text, HasSubstr("varve_get_objects_total{result=\"hit\",tier=\"host\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE varve_sessions gauge\nvarve_sessions 0\n"));
}

TEST(Metrics, TheSameNameAndLabelsAreOneSeries) {
  Metrics metrics;
  auto& first = metrics.Counter("varve_served_bytes_total", "Bytes.", {{"tier", "host"}});
  auto& second = metrics.Counter("varve_served_bytes_total", "Bytes.", {{"tier", "host"}});
  auto& other = metrics.Counter("varve_served_bytes_total", "Bytes.", {{"tier", "nvme"}});
  EXPECT_EQ(&first, &second);
  first.Increment(3);
  second.Increment(4);
  EXPECT_EQ(first.Value(), 7);
  EXPECT_EQ(other.Value(), 0);
}

TEST(Metrics, HistogramCountsIntoItsBuckets) {
  Metrics metrics;
  auto& histogram = metrics.Histogram("varve_put_duration_seconds", "Puts.", {}, {0.001, 0.01});
  histogram.Observe(0.0005);
  histogram.Observe(0.001);  // bounds are inclusive
  histogram.Observe(0.005);
  histogram.Observe(5);
  const std::string text = metrics.Render();
  EXPECT_THAT(text, HasSubstr("varve_put_duration_seconds_bucket{le=\"0.001\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("varve_put_duration_seconds_bucket{le=\"0.01\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("varve_put_duration_seconds_bucket{le=\"+Inf\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("varve_put_duration_seconds_count 4\n"));
}

TEST(Metrics, OnScrapeRunsBeforeEveryRender) {
  Metrics metrics;
  auto& gauge = metrics.Gauge("varve_contexts", "Contexts.");
  double live = 1;
  metrics.OnScrape([&] { gauge.Set(live); });
  EXPECT_THAT(metrics.Render(), HasSubstr("varve_contexts 1\n"));
  live = 2;
  EXPECT_THAT(metrics.Render(), HasSubstr("varve_contexts 2\n"));
}

TEST(Metrics, ConcurrentIncrementsAreNotLost) {
  Metrics metrics;
  auto& counter = metrics.Counter("varve_put_objects_total", "Puts.", {{"result", "stored"}});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 5000; ++n) counter.Increment();
    });
  }
  metrics.Render();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.Value(), 20000);
}

TEST(Metrics, BucketsAscendBetweenTheirLimits) {
  const std::pair<const std::vector<double>*, std::pair<double, double>> cases[] = {
      {&LatencyBuckets(), {1e-5, 10}}, {&RatioBuckets(), {0.5, 1}}};
  for (const auto& [bounds, limits] : cases) {
    EXPECT_TRUE(std::is_sorted(bounds->begin(), bounds->end()));
    EXPECT_EQ(std::adjacent_find(bounds->begin(), bounds->end()), bounds->end());
    EXPECT_EQ(bounds->front(), limits.first);
    EXPECT_EQ(bounds->back(), limits.second);
  }
}

}  // namespace
}  // namespace varve::base
