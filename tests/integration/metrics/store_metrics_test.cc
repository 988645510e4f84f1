// docs/metrics.md against what a running store exposes.
#include <string>

#include "gtest/gtest.h"
#include "tests/integration/metrics/exposed_metrics.h"
#include "tests/support/store_process.h"

namespace varve::testing {
namespace {

TEST(StoreMetrics, AreThoseOfTheDocumentFromTheStart) {
  auto store = StoreProcess::Start();
  ASSERT_TRUE(store.ok()) << store.status();
  const std::string text = (*store)->HttpGet("/metrics");
  ASSERT_FALSE(text.empty());
  ExpectAsDocumented(text, "varve-store");
  ExpectEveryFamilyHasASeries(text);
}

}  // namespace
}  // namespace varve::testing
