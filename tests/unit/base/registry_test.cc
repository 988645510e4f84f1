#include "kvstore/base/registry.h"

#include <functional>
#include <string>

#include "gtest/gtest.h"

namespace varve::base {
namespace {

TEST(Registry, FindsRowsByName) {
  Registry<std::function<int()>> registry("eviction policy");
  registry.Add("lru", [] { return 1; }).Add("s3fifo", [] { return 2; });
  EXPECT_EQ((*registry.Find("lru").value())(), 1);
  EXPECT_EQ((*registry.Find("s3fifo").value())(), 2);
  EXPECT_EQ(registry.Names(), "lru, s3fifo");
}

TEST(Registry, UnknownNameListsTheKnownOnes) {
  Registry<int> registry("eviction policy");
  registry.Add("lru", 1).Add("s3fifo", 2);
  const absl::Status status = registry.Find("fifo").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "unknown eviction policy 'fifo', known: lru, s3fifo");
}

TEST(Registry, RowsKeepTheirOrder) {
  Registry<int> registry("codec");
  registry.Add("z", 3).Add("a", 1);
  ASSERT_EQ(registry.rows().size(), 2u);
  EXPECT_EQ(registry.rows()[0].first, "z");
  EXPECT_EQ(registry.rows()[1].second, 1);
}

}  // namespace
}  // namespace varve::base
