#include "kvstore/transport/region_table.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace varve::transport {
namespace {

TEST(RegionTableTest, PinsInsideARegionOnly) {
  std::vector<std::byte> memory(100);
  RegionTable table;
  const uint64_t id = table.Add(memory);
  EXPECT_EQ(*table.Pin(id, 40, 60), memory.data() + 40);
  EXPECT_EQ(*table.Pin(id, 100, 0), memory.data() + 100);
  EXPECT_EQ(table.Pin(id, 41, 60).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(table.Pin(id, 101, 0).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(table.Pin(id, UINT64_MAX, 2).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(table.Pin(id, 2, UINT64_MAX).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(table.Pin(id + 1, 0, 1).status().code(), absl::StatusCode::kUnavailable);
}

TEST(RegionTableTest, RemoveWaitsForPins) {
  std::vector<std::byte> memory(100);
  RegionTable table;
  const uint64_t id = table.Add(memory);
  ASSERT_TRUE(table.Pin(id, 0, 1).ok());
  ASSERT_TRUE(table.Pin(id, 0, 1).ok());
  EXPECT_FALSE(table.Remove(id, absl::Milliseconds(1)));
  EXPECT_EQ(table.Pin(id, 0, 1).status().code(), absl::StatusCode::kUnavailable);
  table.Unpin(id);
  EXPECT_FALSE(table.Remove(id, absl::Milliseconds(1)));
  std::thread unpinner([&] { table.Unpin(id); });
  EXPECT_TRUE(table.Remove(id, absl::Minutes(1)));
  unpinner.join();
  EXPECT_TRUE(table.Remove(id, absl::ZeroDuration()));
}

}  // namespace
}  // namespace varve::transport
