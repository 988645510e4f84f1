// Granule checksums, the memory of misses, and how often keys were used.
#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/page/checksum.h"
#include "kvstore/store/frequency_sketch.h"
#include "kvstore/store/granules.h"
#include "kvstore/store/miss_memory.h"

namespace varve::store {
namespace {

std::vector<std::byte> RandomBytes(uint64_t seed, size_t size) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

GranuleChecksums Granules(const page::ObjectLayout& layout, std::span<const std::byte> bytes) {
  const size_t granule = GranuleBytes(layout);
  return Summarize(bytes, granule, GranuleCopier(bytes.size(), granule));
}

// The first corrupt granule by reading all bytes.
std::optional<size_t> FirstRead(const GranuleChecksums& sums, const page::Extent& extent,
                                std::span<const std::byte> bytes) {
  return FirstCorruptGranule(sums, extent, bytes, 0,
                             GranuleCopier(bytes.size(), sums.granule_bytes));
}

TEST(GranulesTest, FoldToTheWholeChecksum) {
  const page::ObjectLayout layouts[] = {{4, 2048}, {1, 24}, {8, 100}};
  for (const page::ObjectLayout& layout : layouts) {
    const auto bytes = RandomBytes(1, layout.object_bytes());
    const GranuleChecksums sums = Granules(layout, bytes);
    EXPECT_EQ(sums.crc32c.size(), layout.num_kv_heads * 2);
    EXPECT_EQ(sums.whole_crc32c, page::Crc32c(bytes.data(), bytes.size()));
  }
  for (size_t size : {size_t{1}, kOpaqueGranuleBytes, kOpaqueGranuleBytes + 1, size_t{300000}}) {
    const auto bytes = RandomBytes(2, size);
    const GranuleChecksums sums = Granules({}, bytes);
    EXPECT_EQ(sums.crc32c.size(), (size + kOpaqueGranuleBytes - 1) / kOpaqueGranuleBytes);
    EXPECT_EQ(sums.whole_crc32c, page::Crc32c(bytes.data(), bytes.size()));
  }
}

// Copied in steps, in part, out of order, twice, or put there by somebody else: the same.
TEST(GranulesTest, AreTheSameHoweverTheBytesArrive) {
  std::mt19937_64 random(5);
  for (const auto& [layout, size] : {std::pair{page::ObjectLayout{4, 2048}, size_t{16384}},
                                     std::pair{page::ObjectLayout{}, size_t{300000}}}) {
    const auto bytes = RandomBytes(4, size);
    const GranuleChecksums at_once = Granules(layout, bytes);
    for (size_t step : {size_t{1000}, size_t{2048}, size_t{5000}, size_t{65536}, size_t{300000}}) {
      for (size_t copied : {size, size / 2, size_t{0}}) {
        for (bool shuffled : {false, true}) {
          std::vector<std::byte> object(bytes.begin(), bytes.end());
          std::fill_n(object.begin(), copied, std::byte{0});
          GranuleCopier copier(size, GranuleBytes(layout));
          std::vector<size_t> offsets;
          for (size_t at = 0; at < copied; at += step) offsets.push_back(at);
          if (shuffled) {
            std::shuffle(offsets.begin(), offsets.end(), random);
            if (!offsets.empty()) offsets.push_back(offsets.front());
          }
          for (size_t at : offsets) {
            const size_t n = std::min(step, copied - at);
            copier.Copy(at, object.data() + at, bytes.data() + at, n, page::CopyMode::kStream);
          }
          if (!shuffled) {
            EXPECT_EQ(copier.complete(), copied == size) << step << " " << copied;
          }
          const GranuleChecksums sums = Summarize(object, GranuleBytes(layout), copier);
          EXPECT_EQ(sums.crc32c, at_once.crc32c) << step << " " << copied;
          EXPECT_EQ(sums.whole_crc32c, at_once.whole_crc32c) << step << " " << copied;
          EXPECT_EQ(object, bytes);
        }
      }
    }
  }
}

// One flipped bit is found by exactly the ranges that contain it.
TEST(GranulesTest, OnlyRangesWithTheDamageFail) {
  const page::ObjectLayout layout{4, 512};
  const auto good = RandomBytes(3, layout.object_bytes());
  const GranuleChecksums sums = Granules(layout, good);
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
          std::optional<size_t> corrupt;
          page::ForEachExtent(layout, range, [&](const page::Extent& extent) {
            if (!corrupt) corrupt = FirstRead(sums, extent, bytes);
            EXPECT_EQ(FirstRead(sums, extent, good), std::nullopt);
          });
          EXPECT_EQ(corrupt, covers ? std::optional<size_t>(granule) : std::nullopt);
        }
      }
      EXPECT_EQ(FirstRead(sums, {0, bytes.size()}, bytes), granule);
    }
  }
}

// Copied in pieces of any size: every byte arrives, and damage is found by what was copied, in the
// ranges that were.
TEST(GranulesTest, CopyAndCheck) {
  const page::ObjectLayout layout{4, 512};
  const auto good = RandomBytes(6, layout.object_bytes());
  const GranuleChecksums sums = Granules(layout, good);
  const page::Extent extents[] = {{0, good.size()}, {3 * 512, 512}, {2 * 512, 4 * 512}};
  for (const page::Extent& extent : extents) {
    for (size_t step : {size_t{100}, size_t{512}, size_t{700}, size_t{5000}}) {
      const auto copy_all = [&](const std::vector<std::byte>& from, GranuleCopier& copier) {
        std::vector<std::byte> copy(extent.bytes);
        for (size_t at = 0; at < copy.size(); at += step) {
          copier.Copy(extent.offset + at, copy.data() + at, from.data() + extent.offset + at,
                      std::min(step, copy.size() - at), page::CopyMode::kCache);
        }
        return copy;
      };
      GranuleCopier copier(good.size(), 512);
      const auto copy = copy_all(good, copier);
      EXPECT_EQ(std::memcmp(copy.data(), good.data() + extent.offset, copy.size()), 0);
      EXPECT_EQ(FirstCorruptGranule(sums, extent, good, 0, copier), std::nullopt);
      EXPECT_EQ(copier.complete(), extent.bytes == good.size());
      for (size_t at = extent.offset; at < extent.offset + extent.bytes; at += 211) {
        auto bad = good;
        bad[at] ^= std::byte{16};
        GranuleCopier sees(good.size(), 512);
        copy_all(bad, sees);
        // Judged by the copy, not by what the memory holds now.
        EXPECT_EQ(FirstCorruptGranule(sums, extent, good, 0, sees), at / 512) << step;
      }
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

TEST(FrequencySketchTest, TellsUsesApart) {
  FrequencySketch sketch(1000);
  for (uint64_t key = 0; key < 1000; ++key) {
    for (uint64_t use = 0; use < key % 5; ++use) sketch.Add(key);
  }
  int exact = 0;
  for (uint64_t key = 0; key < 1000; ++key) {
    EXPECT_GE(sketch.Estimate(key), key % 5);
    exact += sketch.Estimate(key) == key % 5 ? 1 : 0;
  }
  EXPECT_GT(exact, 900);
}

TEST(FrequencySketchTest, ItsMemoryIsBounded) {
  EXPECT_EQ(FrequencySketch(1000).memory_bytes(), 8192u);
  FrequencySketch sketch(4 * FrequencySketch::kMostKeys);
  EXPECT_EQ(sketch.memory_bytes(), 64u << 20);
  for (uint64_t key = 0; key < 100; ++key) sketch.Add(key);
  for (uint64_t key = 0; key < 100; ++key) EXPECT_EQ(sketch.Estimate(key), 1u);
}

}  // namespace
}  // namespace varve::store
