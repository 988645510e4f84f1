// What is particular to the host tier; what every tier promises is in contract/tier.
#include "kvstore/tier/host_tier.h"

#include <cstring>

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

}  // namespace
}  // namespace varve::tier
