#include "kvstore/page/lowrank/slot_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "kvstore/page/lowrank/memory.h"
#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;
using Ids = std::vector<uint32_t>;

Ids RandomIds(Rng& rng, uint32_t count, uint32_t below) {
  std::set<uint32_t> ids;
  while (ids.size() < count) ids.insert(rng.Below(below));
  return {ids.begin(), ids.end()};
}

// P14, over a sequence of steps whose slots hold what their chunk's id says.
TEST(SlotPlanTest, HitsAndMissesAreTheSelectionAndCompactInPlace) {
  constexpr uint64_t kSeed = 951;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 200; ++i) {
    const uint32_t slots = rng.Between(1, 60), chunks = 60 + rng.Below(60);
    Ids previous(slots, kNoChunk), content(slots, kNoChunk);
    for (int step = 0; step < 12; ++step) {
      const Ids selected = RandomIds(rng, rng.Between(0, slots), chunks);
      SlotPlan plan;
      ASSERT_TRUE(PlanSlots(previous, selected, plan));
      Ids sorted = plan.ids;
      std::sort(sorted.begin(), sorted.end());
      ASSERT_EQ(sorted, selected);
      ASSERT_TRUE(std::is_sorted(plan.from.begin(), plan.from.end(), std::less_equal<>()));
      for (size_t hit = 0; hit < plan.from.size(); ++hit) {
        ASSERT_GE(plan.from[hit], hit);
        ASSERT_EQ(previous[plan.from[hit]], plan.ids[hit]);
        content[hit] = content[plan.from[hit]];  // in place, ascending
      }
      const auto misses = plan.ids.begin() + static_cast<std::ptrdiff_t>(plan.from.size());
      ASSERT_TRUE(std::is_sorted(misses, plan.ids.end()));
      for (auto miss = misses; miss != plan.ids.end(); ++miss) {
        ASSERT_EQ(std::count(previous.begin(), previous.end(), *miss), 0) << "fetched again";
        content[static_cast<size_t>(miss - plan.ids.begin())] = *miss;
      }
      previous.assign(slots, kNoChunk);
      std::copy(plan.ids.begin(), plan.ids.end(), previous.begin());
      for (size_t slot = 0; slot < plan.ids.size(); ++slot)
        ASSERT_EQ(content[slot], previous[slot]);
    }
  }
}

TEST(SlotPlanTest, OrderIsByOldSlotThenById) {
  SlotPlan plan;
  ASSERT_TRUE(PlanSlots(Ids{9, 4, kNoChunk, 7, 2}, Ids{1, 2, 3, 4, 9}, plan));
  EXPECT_EQ(plan, (SlotPlan{{9, 4, 2, 1, 3}, {0, 1, 4}}));
  ASSERT_TRUE(PlanSlots({}, Ids{5, 6}, plan));
  EXPECT_EQ(plan, (SlotPlan{{5, 6}, {}}));
  ASSERT_TRUE(PlanSlots(Ids{5, 6}, {}, plan));
  EXPECT_EQ(plan, (SlotPlan{}));
}

TEST(SlotPlanTest, RefusesWhatIsNoSelection) {
  SlotPlan plan = {{1}, {0}};
  EXPECT_FALSE(PlanSlots(Ids{1, 2}, Ids{2, 2}, plan));
  EXPECT_EQ(plan, SlotPlan{});
  EXPECT_FALSE(PlanSlots(Ids{1, 2}, Ids{3, 2}, plan));
  EXPECT_FALSE(PlanSlots(Ids{1, kNoChunk}, Ids{1, kNoChunk}, plan));
  EXPECT_FALSE(PlanSlots(Ids{1, 2, 1}, Ids{1, 2}, plan));
  EXPECT_EQ(plan, SlotPlan{});
  EXPECT_TRUE(PlanSlots(Ids{1, 2, 1}, Ids{2}, plan)) << "not a chunk that is wanted";
}

// The figures of ShadowKV for Llama-3.1-8B: 8 KV heads, d = 128, r = 160, chunks of 8, bf16.
TEST(LowRankMemoryTest, IsWhatTheMethodTakes) {
  constexpr uint64_t kTokens = 131072;
  LowRankShape shape{.num_kv_heads = 8, .head_dim = 128, .id_bytes = 8};
  const LowRankBytes layer = LowRankMemory(shape, kTokens);
  EXPECT_EQ(layer.rows, 320 * kTokens);
  EXPECT_EQ(layer.landmarks, 256 * kTokens);
  EXPECT_EQ(layer.ids, 8 * kTokens);
  EXPECT_EQ(layer.growing(), 584 * kTokens);
  EXPECT_EQ(layer.basis, 320u << 10);
  EXPECT_EQ(layer.outliers + layer.hot + layer.window, size_t{2592} * 4096);
  EXPECT_EQ(FullBytes(shape, kTokens), 4096 * kTokens);
  EXPECT_EQ(StoredValueBytes(shape, kTokens), 2048 * kTokens);
  EXPECT_NEAR(32.0 * static_cast<double>(layer.total()) / (1 << 30), 2.61, 0.005);
  EXPECT_NEAR(static_cast<double>(FullBytes(shape, kTokens)) / static_cast<double>(layer.total()),
              6.1, 0.05);

  shape.id_bytes = 4;
  EXPECT_EQ(LowRankMemory(shape, kTokens).growing(), 580 * kTokens);
  shape.rows_dtype = shape.basis_dtype = DType::kF32;
  EXPECT_EQ(LowRankMemory(shape, kTokens).rows, 640 * kTokens);
  EXPECT_EQ(LowRankMemory(shape, kTokens).basis, 640u << 10);
  shape.chunk_tokens = 32;
  EXPECT_EQ(LowRankMemory(shape, 63).landmarks, 2048u) << "a chunk that is not full has none";
  EXPECT_EQ(LowRankMemory(shape, 0).growing(), 0u);
}

}  // namespace
}  // namespace varve::page
