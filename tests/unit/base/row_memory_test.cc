#include "kvstore/base/row_memory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace varve::base {
namespace {

uintptr_t Place(const void* memory) { return reinterpret_cast<uintptr_t>(memory); }

TEST(RowMemoryTest, BeginsAtLinesAndLargeOnesAtHugePages) {
  for (const size_t bytes : {size_t{1}, size_t{640}, kHugePageBytes - 1, kHugePageBytes,
                             3 * kHugePageBytes + 640}) {
    std::byte* const memory = AllocateRows(bytes);
    ASSERT_NE(memory, nullptr) << bytes;
    EXPECT_EQ(Place(memory) % (bytes < kHugePageBytes ? kCacheLineBytes : kHugePageBytes), 0u)
        << bytes;
    std::memset(memory, 1, bytes);
    FreeRows(memory);
  }
  FreeRows(nullptr);
}

TEST(RowMemoryTest, VectorsKeepWhatTheyHoldWhileTheyGrow) {
  std::vector<uint32_t, RowAllocator<uint32_t>> numbers;
  for (uint32_t i = 0; i < 2'000'000; ++i) numbers.push_back(i);
  EXPECT_EQ(Place(numbers.data()) % kHugePageBytes, 0u);
  for (uint32_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], i);
}

}  // namespace
}  // namespace varve::base
