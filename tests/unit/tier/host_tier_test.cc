// What is particular to the host tier; what every tier promises is in contract/tier.
#include "kvstore/tier/host_tier.h"

#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/tier/arena.h"
#include "kvstore/tier/memory_limit.h"

namespace varve::tier {
namespace {

using ::testing::AllOf;
using ::testing::Each;
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

TEST(HostTierTest, ArenaIsPageAlignedAndWholePagesLong) {
  const auto tier = HostTier::Create({.capacity_bytes = (1 << 20) + 1, .prefault_threads = 2});
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_EQ((*tier)->capacity_bytes(), 1u << 20);
  EXPECT_EQ((*tier)->arena().size(), 1u << 20);
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*tier)->arena().data()) % 4096, 0u);
}

TEST(HostTierTest, UsesAnExternalArenaWithoutChangingIt) {
  std::vector<std::byte> memory(64 << 10, std::byte{0x5a});
  const auto tier = HostTier::Create({.external_arena = memory});
  ASSERT_TRUE(tier.ok()) << tier.status();
  EXPECT_THAT(memory, Each(std::byte{0x5a})) << "pre-faulting wrote into the owner's memory";
  EXPECT_EQ((*tier)->capacity_bytes(), memory.size());
  const auto slot = (*tier)->Reserve(1000);
  ASSERT_TRUE(slot.ok());
  EXPECT_EQ((*tier)->Map(*slot).data(), memory.data() + slot->offset);
}

TEST(HostTierTest, ExternalArenaBoundsTheCapacity) {
  std::vector<std::byte> memory(64 << 10);
  EXPECT_THAT(MessageOf({.capacity_bytes = 128 << 10, .external_arena = memory}),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("65536")));
  const auto tier = HostTier::Create({.capacity_bytes = 8192, .external_arena = memory});
  ASSERT_TRUE(tier.ok());
  EXPECT_EQ((*tier)->capacity_bytes(), 8192u);
}

TEST(HostTierTest, HugePagesAreOnlyAWish) {
  const auto tier = HostTier::Create({.capacity_bytes = 8 << 20, .huge_pages = true});
  ASSERT_TRUE(tier.ok()) << tier.status();
  std::memset((*tier)->arena().data(), 1, (*tier)->arena().size());
}

// Residency from the kernel's own books.
TEST(ArenaTest, PrefaultMakesEveryPageResident) {
  auto arena = Arena::Map(96 << 20, /*huge_pages=*/false);
  ASSERT_TRUE(arena.ok());
  ASSERT_TRUE(Prefault(arena->memory(), 3).ok());
  std::vector<unsigned char> present(arena->memory().size() / 4096);
  ASSERT_EQ(mincore(arena->memory().data(), arena->memory().size(), present.data()), 0);
  EXPECT_THAT(present, Each(testing::Truly([](unsigned char c) { return (c & 1) == 1; })));
}

TEST(ArenaTest, PrefaultLeavesRaggedEndsAlone) {
  std::vector<std::byte> memory(3 * 4096 + 100, std::byte{7});
  for (size_t size : {size_t{1}, size_t{4095}, memory.size()}) {
    EXPECT_TRUE(Prefault(std::span(memory).first(size), 4).ok());
  }
  EXPECT_TRUE(Prefault({}, 4).ok());
  EXPECT_THAT(memory, Each(std::byte{7}));
}

}  // namespace
}  // namespace varve::tier
