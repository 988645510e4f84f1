// The slot allocator against a naive model, and the promises of its header.
#include "kvstore/tier/slot_allocator.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::tier {
namespace {

constexpr uint64_t kPage = 4096;

std::optional<Slot> Take(SlotAllocator& allocator, uint64_t bytes) {
  const auto result = allocator.Reserve(bytes);
  if (const Slot* slot = std::get_if<Slot>(&result)) return *slot;
  return std::nullopt;
}

// Reserved extents in a map by offset; finds holes by walking them all.
class NaiveModel {
 public:
  explicit NaiveModel(uint64_t capacity) : capacity_(capacity) {}

  static uint64_t Rounded(uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

  // The smallest hole that fits, the lowest of equals.
  std::optional<uint64_t> BestFit(uint64_t bytes) const {
    std::optional<uint64_t> best;
    uint64_t best_bytes = 0;
    ForEachHole([&](uint64_t offset, uint64_t hole) {
      if (hole < Rounded(bytes) || (best.has_value() && hole >= best_bytes)) return;
      best = offset;
      best_bytes = hole;
    });
    return best;
  }
  uint64_t Largest() const {
    uint64_t largest = 0;
    ForEachHole([&](uint64_t, uint64_t hole) { largest = std::max(largest, hole); });
    return largest;
  }
  uint64_t Holes() const {
    uint64_t holes = 0;
    ForEachHole([&](uint64_t, uint64_t) { ++holes; });
    return holes;
  }
  void Reserve(uint64_t offset, uint64_t bytes) { reserved_[offset] = Rounded(bytes); }
  void Free(uint64_t offset) { reserved_.erase(offset); }
  void Resize(uint64_t capacity) { capacity_ = capacity; }
  uint64_t Beyond() const {
    uint64_t beyond = 0;
    for (const auto& [offset, bytes] : reserved_) {
      if (offset + bytes > capacity_) beyond += bytes;
    }
    return beyond;
  }
  uint64_t FreeBytes() const {
    uint64_t free = 0;
    ForEachHole([&](uint64_t, uint64_t hole) { free += hole; });
    return free;
  }
  uint64_t Used() const {
    uint64_t used = 0;
    for (const auto& [offset, bytes] : reserved_) used += bytes;
    return used;
  }

 private:
  template <typename Fn>
  void ForEachHole(Fn&& fn) const {
    uint64_t at = 0;
    for (const auto& [offset, bytes] : reserved_) {
      const uint64_t end = std::min(offset, capacity_);
      if (end > at) fn(at, end - at);
      at = offset + bytes;
    }
    if (at < capacity_) fn(at, capacity_ - at);
  }

  uint64_t capacity_;
  std::map<uint64_t, uint64_t> reserved_;
};

TEST(SlotAllocatorTest, StartsAsOneHole) {
  SlotAllocator allocator(10 * kPage + 17, kPage);
  EXPECT_EQ(allocator.capacity_bytes(), 10 * kPage);
  EXPECT_EQ(allocator.largest_free_bytes(), 10 * kPage);
  EXPECT_EQ(allocator.used_bytes(), 0u);
}

TEST(SlotAllocatorTest, SaysWhatIsLacking) {
  SlotAllocator allocator(4 * kPage);
  const auto a = Take(allocator, kPage);
  const auto b = Take(allocator, kPage);
  const auto c = Take(allocator, kPage);
  ASSERT_TRUE(a && b && c);
  EXPECT_TRUE(allocator.Free(*b));
  const auto result = allocator.Reserve(kPage + 1);
  const auto* lack = std::get_if<SlotAllocator::Lack>(&result);
  ASSERT_NE(lack, nullptr);
  EXPECT_EQ(lack->wanted_bytes, 2 * kPage);
  EXPECT_EQ(lack->free_bytes, 2 * kPage);
  EXPECT_EQ(lack->largest_free_bytes, kPage);
}

TEST(SlotAllocatorTest, RefusesSizesNearOverflow) {
  SlotAllocator allocator(4 * kPage);
  EXPECT_FALSE(Take(allocator, UINT64_MAX).has_value());
  EXPECT_FALSE(Take(allocator, UINT64_MAX - kPage).has_value());
  EXPECT_EQ(allocator.used_bytes(), 0u);
}

TEST(SlotAllocatorTest, PrefersTheTightestHole) {
  SlotAllocator allocator(10 * kPage);
  std::vector<Slot> slots;
  for (uint64_t pages : {2, 1, 3, 1, 3}) slots.push_back(*Take(allocator, pages * kPage));
  allocator.Free(slots[2]);  // a hole of 3 pages
  allocator.Free(slots[0]);  // a hole of 2 pages
  EXPECT_EQ(Take(allocator, 2 * kPage)->offset, slots[0].offset);
  EXPECT_EQ(Take(allocator, 2 * kPage)->offset, slots[2].offset);
}

TEST(SlotAllocatorTest, CoalescesWithBothNeighbours) {
  SlotAllocator allocator(3 * kPage);
  const Slot a = *Take(allocator, kPage);
  const Slot b = *Take(allocator, kPage);
  const Slot c = *Take(allocator, kPage);
  allocator.Free(a);
  allocator.Free(c);
  EXPECT_EQ(allocator.holes().size(), 2u);
  allocator.Free(b);
  EXPECT_EQ(allocator.holes().size(), 1u);
  EXPECT_EQ(allocator.largest_free_bytes(), 3 * kPage);
}

TEST(SlotAllocatorTest, RejectsDoubleFreeForeignAndOutdatedSlots) {
  SlotAllocator allocator(4 * kPage);
  const Slot first = *Take(allocator, 100);
  EXPECT_TRUE(allocator.Free(first));
  EXPECT_FALSE(allocator.Free(first));
  const Slot second = *Take(allocator, 100);
  ASSERT_EQ(second.offset, first.offset);
  EXPECT_NE(second.generation, first.generation);
  EXPECT_FALSE(allocator.Free(first)) << "a slot of an earlier life freed its successor";
  EXPECT_FALSE(allocator.Free(Slot{kPage, 100, second.generation}));
  EXPECT_FALSE(allocator.Free(Slot{second.offset, 200, second.generation}));
  EXPECT_EQ(allocator.slots(), 1u);
  EXPECT_TRUE(allocator.Free(second));
}

// Equal sizes never fragment: after any churn the last byte can be reserved.
TEST(SlotAllocatorTest, EqualSizesFillToTheBrimAfterChurn) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    const uint64_t size = 1 + random() % (5 * kPage);
    SlotAllocator allocator(256 * kPage);
    std::vector<Slot> slots;
    for (int step = 0; step < 4000; ++step) {
      if (random() % 2 == 0 || slots.empty()) {
        if (const auto slot = Take(allocator, size)) slots.push_back(*slot);
      } else {
        std::swap(slots[random() % slots.size()], slots.back());
        ASSERT_TRUE(allocator.Free(slots.back()));
        slots.pop_back();
      }
    }
    while (const auto slot = Take(allocator, size)) slots.push_back(*slot);
    EXPECT_EQ(slots.size(), 256 * kPage / NaiveModel::Rounded(size));
  }
}

// Sizes as a KV store sees them: whole objects, parts, opaque odds and ends.
uint64_t MixedSize(std::mt19937_64& random) {
  static constexpr uint64_t kSizes[] = {2048, 8192, 16384, 65536, 131072, 262144, 524288};
  if (random() % 8 == 0) return 1 + random() % 300000;
  return kSizes[random() % std::size(kSizes)];
}

TEST(SlotAllocatorTest, AgreesWithNaiveModelUnderMixedChurn) {
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    constexpr uint64_t kCapacity = 8 << 20, kMaxCapacity = 12 << 20;
    SlotAllocator allocator(kCapacity);
    NaiveModel model(kCapacity);
    std::vector<Slot> slots;
    uint64_t last_generation = 0;
    for (int step = 0; step < 3000; ++step) {
      if (random() % 5 < 3 || slots.empty()) {
        const uint64_t bytes = MixedSize(random);
        const std::optional<uint64_t> expected = model.BestFit(bytes);
        const std::optional<Slot> slot = Take(allocator, bytes);
        ASSERT_EQ(slot.has_value(), expected.has_value());
        if (!slot) continue;
        ASSERT_EQ(slot->offset, *expected);
        ASSERT_EQ(slot->bytes, bytes);
        ASSERT_GT(slot->generation, last_generation);
        last_generation = slot->generation;
        model.Reserve(slot->offset, bytes);
        slots.push_back(*slot);
      } else {
        std::swap(slots[random() % slots.size()], slots.back());
        ASSERT_TRUE(allocator.Free(slots.back()));
        model.Free(slots.back().offset);
        slots.pop_back();
      }
      if (random() % 50 == 0) {
        const uint64_t capacity = (1 + random() % (kMaxCapacity / kPage)) * kPage;
        allocator.Resize(capacity + random() % kPage);
        model.Resize(capacity);
      }
      ASSERT_EQ(allocator.beyond_bytes(), model.Beyond());
      ASSERT_EQ(allocator.free_bytes(), model.FreeBytes());
      ASSERT_EQ(allocator.used_bytes(), model.Used());
      ASSERT_EQ(allocator.largest_free_bytes(), model.Largest());
      ASSERT_EQ(allocator.holes().size(), model.Holes());
      ASSERT_EQ(allocator.slots(), slots.size());
    }
    for (const Slot& slot : slots) ASSERT_TRUE(allocator.Free(slot));
    EXPECT_EQ(allocator.largest_free_bytes(), allocator.capacity_bytes());
  }
}

// How full a churning arena gets before the first refusal, oldest slots leaving first (as a cache
// does it).
TEST(SlotAllocatorTest, MixedChurnKeepsUtilisationHigh) {
  std::mt19937_64 random(7);
  constexpr uint64_t kCapacity = 256 << 20;
  SlotAllocator allocator(kCapacity);
  std::vector<Slot> slots;
  size_t oldest = 0;
  double lowest = 1;
  double sum = 0;
  int samples = 0;
  for (int step = 0; step < 40000; ++step) {
    const uint64_t bytes = MixedSize(random);
    std::optional<Slot> slot = Take(allocator, bytes);
    if (!slot && step > 5000) {
      const double utilisation = static_cast<double>(allocator.used_bytes()) / kCapacity;
      lowest = std::min(lowest, utilisation);
      sum += utilisation;
      ++samples;
    }
    for (; !slot; slot = Take(allocator, bytes)) ASSERT_TRUE(allocator.Free(slots[oldest++]));
    slots.push_back(*slot);
  }
  ASSERT_GT(samples, 0);
  std::printf("utilisation at refusal: mean %.3f, lowest %.3f of %d\n", sum / samples, lowest,
              samples);
  EXPECT_GT(sum / samples, 0.85);
}

}  // namespace
}  // namespace varve::tier
