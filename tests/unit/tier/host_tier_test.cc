// What is particular to the host tier; what every tier promises is in contract/tier.
#include "kvstore/tier/host_tier.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/tier/memory_limit.h"

namespace varve::tier {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string MessageOf(const HostTierOptions& options) {
  const auto tier = HostTier::Create(options);
  return tier.ok() ? "ok" : std::string(tier.status().ToString());
}

TEST(HostTierTest, RefusesSizesThatMakeNoSense) {
  EXPECT_THAT(MessageOf({.capacity_bytes = 0}),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("at least 4096")));
  EXPECT_THAT(MessageOf({.capacity_bytes = 100}), HasSubstr("capacity_bytes is 100"));
  EXPECT_THAT(MessageOf({.capacity_bytes = 1 << 20, .slot_alignment_bytes = 100}),
              HasSubstr("power of two"));
  EXPECT_THAT(MessageOf({.capacity_bytes = 1 << 20, .slot_alignment_bytes = 32}),
              HasSubstr("at least 64"));
}

TEST(HostTierTest, RefusesMoreThanTheMachineHasAndNamesTheLimit) {
  const MemoryLimit limit = AvailableMemory();
  ASSERT_LT(limit.available_bytes, 1ull << 50);
  const std::string message = MessageOf({.capacity_bytes = 1ull << 50});
  EXPECT_THAT(message, AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("1.00 PiB"),
                             HasSubstr("are available (")))
      << "limit from " << limit.source;
}

TEST(HostTierTest, SlotsArePageAlignedAndFillWholePages) {
  const auto tier = HostTier::Create({.capacity_bytes = (1 << 20) + 1, .prefault_threads = 2});
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_EQ((*tier)->capacity_bytes(), 1u << 20);
  const auto slot = (*tier)->Reserve(1 << 20);
  ASSERT_TRUE(slot.ok()) << slot.status();
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*tier)->Map(*slot).data()) % 4096, 0u);
}

TEST(HostTierTest, HugePagesAreOnlyAWish) {
  const auto tier = HostTier::Create({.capacity_bytes = 8 << 20, .huge_pages = true});
  ASSERT_TRUE(tier.ok()) << tier.status();
  const auto slot = (*tier)->Reserve(8 << 20);
  ASSERT_TRUE(slot.ok()) << slot.status();
  std::memset((*tier)->Map(*slot).data(), 1, 8 << 20);
}

// What of [offset, offset + bytes) the system has given.
uint64_t Resident(std::span<std::byte> memory) {
  std::vector<unsigned char> pages(memory.size() / 4096);
  EXPECT_EQ(mincore(memory.data(), memory.size(), pages.data()), 0);
  return 4096 * static_cast<uint64_t>(
                    std::count_if(pages.begin(), pages.end(), [](auto p) { return p & 1; }));
}

TEST(HostTierTest, GrowsAndShrinksWhereItIs) {
  constexpr uint64_t kMiB = 1 << 20;
  const auto created =
      HostTier::Create({.capacity_bytes = 4 * kMiB, .max_capacity_bytes = 16 * kMiB});
  ASSERT_TRUE(created.ok()) << created.status();
  HostTier& tier = **created;
  EXPECT_EQ(tier.max_capacity_bytes(), 16 * kMiB);
  EXPECT_FALSE(tier.Reserve(5 * kMiB).ok());
  ASSERT_TRUE(tier.Grow(16 * kMiB).ok());
  EXPECT_EQ(tier.capacity_bytes(), 16 * kMiB);
  EXPECT_EQ(tier.memory().size(), 16 * kMiB);
  EXPECT_EQ(Resident(tier.memory()), 16 * kMiB) << "touched";
  const Slot low = *tier.Reserve(kMiB);
  const Slot middle = *tier.Reserve(8 * kMiB);
  const Slot high = *tier.Reserve(2 * kMiB);
  std::memset(tier.Map(high).data(), 7, high.bytes);
  const std::span<std::byte> all = tier.memory();

  ASSERT_TRUE(tier.Shrink(4 * kMiB + 100).ok());
  EXPECT_EQ(tier.capacity_bytes(), 4 * kMiB) << "rounded";
  EXPECT_EQ(tier.Usage().beyond_bytes, middle.bytes + high.bytes);
  EXPECT_EQ(tier.Usage().free_bytes, 0u) << "the middle one reaches over the edge";
  EXPECT_FALSE(tier.Reserve(4096).ok());
  EXPECT_FALSE(tier.ReleaseBeyond());
  tier.Free(middle);
  EXPECT_EQ(tier.Usage().free_bytes, 3 * kMiB);
  EXPECT_FALSE(tier.ReleaseBeyond());
  EXPECT_EQ(static_cast<int>(tier.Map(high)[high.bytes - 1]), 7) << "still whose it is";

  // A change of mind.
  ASSERT_TRUE(tier.Grow(8 * kMiB).ok());
  EXPECT_EQ(tier.Usage().free_bytes, 7 * kMiB);
  EXPECT_FALSE(tier.ReleaseBeyond());
  tier.Free(high);
  EXPECT_TRUE(tier.ReleaseBeyond());
  EXPECT_EQ(Resident(all), 8 * kMiB) << "the rest is the system's";
  ASSERT_TRUE(tier.Grow(9 * kMiB).ok());
  EXPECT_EQ(tier.Usage().largest_free_bytes, 8 * kMiB);
  EXPECT_EQ(Resident(all), 9 * kMiB);
  tier.Free(low);
}

TEST(HostTierTest, GivesUpGrowingWhenItIsToldTo) {
  constexpr uint64_t kMiB = 1 << 20;
  const auto created =
      HostTier::Create({.capacity_bytes = 4 * kMiB, .max_capacity_bytes = 64 * kMiB});
  ASSERT_TRUE(created.ok()) << created.status();
  HostTier& tier = **created;
  ASSERT_TRUE(tier.Grow(8 * kMiB).ok());
  tier.StopGrowing();
  EXPECT_EQ(tier.Grow(64 * kMiB).code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(tier.capacity_bytes(), 8 * kMiB);
  EXPECT_EQ(tier.Usage().largest_free_bytes, 8 * kMiB);
  EXPECT_EQ(Resident({tier.memory().data(), 64 * kMiB}), 8 * kMiB);
}

TEST(HostTierTest, RefusesSizesThatItCannotHave) {
  const auto created =
      HostTier::Create({.capacity_bytes = 1 << 20, .max_capacity_bytes = 1ull << 45});
  ASSERT_TRUE(created.ok()) << created.status();
  HostTier& tier = **created;
  EXPECT_THAT(tier.Grow(1 << 19).ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("from 1.00 MiB")));
  EXPECT_THAT(tier.Grow(1ull << 50).ToString(), HasSubstr("to 32.0 TiB"));
  EXPECT_THAT(tier.Grow(1ull << 45).ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("are available (")));
  EXPECT_THAT(tier.Shrink(2 << 20).ToString(), HasSubstr("to 1.00 MiB"));
  EXPECT_THAT(tier.Shrink(100).ToString(), HasSubstr("from 4096 bytes"));
  EXPECT_EQ(tier.capacity_bytes(), 1u << 20);
  EXPECT_EQ(tier.Usage().largest_free_bytes, 1u << 20) << "nothing has changed";
}

}  // namespace
}  // namespace varve::tier
