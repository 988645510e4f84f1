// Granule checksums, the memory of misses, and LRU order.
#include <cstring>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/page/checksum.h"
#include "kvstore/store/granules.h"
#include "kvstore/store/lru_policy.h"
#include "kvstore/store/miss_memory.h"

namespace varve::store {
namespace {

std::vector<std::byte> RandomBytes(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

TEST(GranulesTest, FoldToTheWholeChecksum) {
  const page::ObjectLayout layouts[] = {{4, 2048}, {1, 24}, {8, 100}};
  for (const page::ObjectLayout& layout : layouts) {
    const auto bytes = RandomBytes(1, layout.object_bytes());
    const GranuleChecksums sums = ComputeGranules(layout, bytes);
    EXPECT_EQ(sums.crc32c.size(), layout.num_kv_heads * 2);
    EXPECT_EQ(sums.whole_crc32c, page::Crc32c(bytes.data(), bytes.size()));
  }
  for (size_t size : {size_t{1}, kOpaqueGranuleBytes, kOpaqueGranuleBytes + 1, size_t{300000}}) {
    const auto bytes = RandomBytes(2, size);
    const GranuleChecksums sums = ComputeGranules({}, bytes);
    EXPECT_EQ(sums.crc32c.size(), (size + kOpaqueGranuleBytes - 1) / kOpaqueGranuleBytes);
    EXPECT_EQ(sums.whole_crc32c, page::Crc32c(bytes.data(), bytes.size()));
  }
}

// One flipped bit is found by exactly the ranges that contain it.
TEST(GranulesTest, OnlyRangesWithTheDamageFail) {
  const page::ObjectLayout layout{4, 512};
  const auto good = RandomBytes(3, layout.object_bytes());
  const GranuleChecksums sums = ComputeGranules(layout, good);
  for (uint32_t head = 0; head < 4; ++head) {
    for (uint32_t part = 0; part < 2; ++part) {
      auto bytes = good;
      const size_t granule = 2 * head + part;
      bytes[granule * 512 + 77] ^= std::byte{4};
      for (uint32_t begin = 0; begin < 4; ++begin) {
        for (page::Part asked : {page::Part::kKV, page::Part::kK, page::Part::kV}) {
          const page::ObjectRange range{asked, begin, 1};
          const bool covers = begin == head && (asked == page::Part::kKV ||
                                                (asked == page::Part::kV) == (part == 1));
          const auto corrupt = FirstCorruptGranule(sums, layout, range, bytes);
          EXPECT_EQ(corrupt, covers ? std::optional<size_t>(granule) : std::nullopt);
          EXPECT_EQ(FirstCorruptGranule(sums, layout, range, good), std::nullopt);
        }
      }
      EXPECT_EQ(FirstCorruptGranule(sums, layout, {}, bytes), granule);
    }
  }
}

TEST(MissMemoryTest, RemembersTheLastOnesAndForgetsTheRest) {
  MissMemory memory(3);
  EXPECT_EQ(memory.Find(1), std::nullopt);
  for (uint64_t key = 1; key <= 5; ++key) memory.Remember(key, MissReason::kEvicted);
  EXPECT_EQ(memory.size(), 3u);
  EXPECT_EQ(memory.Find(2), std::nullopt);
  EXPECT_EQ(memory.Find(3), MissReason::kEvicted);
  memory.Remember(5, MissReason::kCorrupt);
  EXPECT_EQ(memory.Find(5), MissReason::kCorrupt);
  memory.Forget(5);
  EXPECT_EQ(memory.Find(5), std::nullopt);
}

TEST(MissMemoryTest, AKeyRememberedTwiceLivesAsLongAsItsLastTime) {
  MissMemory memory(3);
  memory.Remember(1, MissReason::kEvicted);
  memory.Remember(2, MissReason::kEvicted);
  memory.Remember(1, MissReason::kEvicted);
  memory.Remember(3, MissReason::kEvicted);  // takes the place of the first 1
  EXPECT_EQ(memory.Find(1), MissReason::kEvicted);
  memory.Remember(4, MissReason::kEvicted);
  EXPECT_EQ(memory.Find(1), MissReason::kEvicted);
  EXPECT_EQ(memory.Find(2), std::nullopt);
}

TEST(MissMemoryTest, CapacityZeroRemembersNothing) {
  MissMemory memory(0);
  memory.Remember(1, MissReason::kEvicted);
  EXPECT_EQ(memory.Find(1), std::nullopt);
}

TEST(LruPolicyTest, VictimsComeInOrderOfLastUse) {
  const auto policy = MakeLruPolicy(1 << 20);
  std::vector<EvictionNode> nodes(4);
  for (EvictionNode& node : nodes) policy->Insert(node);
  policy->Touch(nodes[1]);
  policy->Touch(nodes[0]);
  EXPECT_EQ(policy->Victim(), &nodes[2]);
  EXPECT_EQ(policy->Victim(), &nodes[3]);
  EXPECT_EQ(policy->Victim(), &nodes[1]);
  EXPECT_EQ(policy->Victim(), &nodes[0]);
}

}  // namespace
}  // namespace varve::store
