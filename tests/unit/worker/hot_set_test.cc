#include "gpu_worker/hot_set.h"

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "gtest/gtest.h"

namespace varve::worker {
namespace {

std::vector<uint32_t> ToVector(std::span<const uint32_t> pages) {
  return {pages.begin(), pages.end()};
}

TEST(HotSet, PagesAndSlotsAreABijection) {
  HotSet hot;
  hot.Insert(0, 7);
  hot.Insert(5, 3);
  hot.Insert(2, 9);
  EXPECT_EQ(ToVector(hot.pages()), (std::vector<uint32_t>{0, 2, 5}));
  EXPECT_EQ(ToVector(hot.PagesBelow(5)), (std::vector<uint32_t>{0, 2}));
  EXPECT_EQ(hot.slot(2), 9u);
  EXPECT_EQ(hot.slot(1), kNoSlot);
  EXPECT_EQ(hot.slot(1000), kNoSlot);
  EXPECT_TRUE(hot.CheckInvariants().ok());
  EXPECT_EQ(hot.Remove(2), 9u);
  EXPECT_FALSE(hot.resident(2));
  EXPECT_TRUE(hot.CheckInvariants().ok());
}

TEST(HotSet, TwoPagesInOneSlotAreFound) {
  HotSet hot;
  hot.Insert(1, 4);
  hot.Insert(2, 4);
  EXPECT_EQ(hot.CheckInvariants().code(), absl::StatusCode::kInternal);
}

TEST(HotSet, UnsavedPagesAreNoVictims) {
  HotSet hot;
  for (uint32_t page = 0; page < 4; ++page) hot.Insert(page, page);
  std::vector<BlockState> states(8, BlockState::kSaving);
  const std::vector<uint32_t> selected = {6};
  page::HotSetPlan plan;
  EXPECT_FALSE(hot.Plan(selected, states, 0, plan));
  states[2] = BlockState::kSaved;
  ASSERT_TRUE(hot.Plan(selected, states, 0, plan));
  EXPECT_EQ(plan.victims, (std::vector<uint32_t>{2}));
  states[2] = BlockState::kUnsaved;
  EXPECT_FALSE(hot.Plan(selected, states, 0, plan));
}

TEST(HotSet, WithoutScoresTheOldestLeaves) {
  HotSet hot;
  for (uint32_t page = 0; page < 6; ++page) hot.Insert(page, page);
  const std::vector<BlockState> states(6, BlockState::kSaved);
  const std::vector<uint32_t> keep = {0};
  std::vector<uint32_t> victims;
  hot.Surplus(keep, states, 3, victims);
  EXPECT_EQ(victims, (std::vector<uint32_t>{1, 2, 3}));
  hot.Touch(std::vector<uint32_t>{1, 2}, 1.0f);
  hot.Surplus(keep, states, 3, victims);
  EXPECT_EQ(victims, (std::vector<uint32_t>{3, 4, 5}));
}

// A page that was important for long outlives one that is for a moment.
TEST(HotSet, SmoothedScoresRankVictims) {
  const std::vector<BlockState> states(2, BlockState::kSaved);
  for (const double smoothing : {0.0, 0.75}) {
    HotSet hot;
    hot.Insert(0, 0);
    hot.Insert(1, 1);
    for (int step = 0; step < 8; ++step) hot.NoteScores(std::vector<float>{0.4f, 0.1f}, smoothing);
    hot.NoteScores(std::vector<float>{0.2f, 0.3f}, smoothing);
    std::vector<uint32_t> victims;
    hot.Surplus({}, states, 1, victims);
    EXPECT_EQ(victims, (std::vector<uint32_t>{smoothing > 0 ? 1u : 0u}));
  }
}

// The first score is the first rank, and one that is lost leaves no trace.
TEST(HotSet, SmoothingBeginsWithTheFirstScore) {
  const std::vector<BlockState> states(3, BlockState::kSaved);
  const float lost = -std::numeric_limits<float>::infinity();
  HotSet hot;
  for (uint32_t page = 0; page < 3; ++page) hot.Insert(page, page);
  hot.NoteScore(0, lost, 0.9);
  hot.NoteScore(0, 0.3f, 0.9);
  hot.NoteScore(1, 0.1f, 0.9);
  std::vector<uint32_t> victims;
  hot.Surplus({}, states, 0, victims);
  EXPECT_EQ(victims, (std::vector<uint32_t>{2, 1, 0})) << "2 was never scored";
}

// P11, P14: random selections over random states; slots are followed by a second book-keeping.
TEST(HotSet, RandomSelectionsKeepEveryProperty) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const uint32_t n = 4 + random() % 60;
    const uint32_t budget = 1 + random() % n;
    const uint32_t capacity = std::min<uint32_t>(n, budget + random() % 10);
    std::vector<BlockState> states(n, BlockState::kSaved);
    std::vector<uint32_t> pinned;
    page::PinnedPages(n, random() % 2, random() % 3, pinned);
    HotSet hot;
    std::vector<Slot> free;
    for (uint32_t i = 0; i < n; ++i) free.push_back(i);
    for (int step = 0; step < 50; ++step) {
      std::vector<float> scores(n);
      for (float& score : scores) score = static_cast<float>(random() % 7);  // ties on purpose
      page::SelectScratch scratch;
      std::vector<uint32_t> selected(std::max<size_t>(budget, pinned.size()));
      selected.resize(page::SelectPages(scores, pinned, budget, scratch, selected));
      const uint32_t room = std::max<uint32_t>(capacity, selected.size());
      hot.NoteScores(scores, 0.5 * (seed % 2));
      const uint32_t missing = hot.CountMissing(selected);
      const uint32_t spare = room - static_cast<uint32_t>(hot.pages().size());
      page::HotSetPlan plan;
      ASSERT_TRUE(hot.Plan(selected, states, spare, plan));

      EXPECT_EQ(plan.hits.size() + plan.recall.size(), selected.size());
      EXPECT_EQ(plan.recall.size(), missing);
      EXPECT_TRUE(std::is_sorted(plan.hits.begin(), plan.hits.end()));
      EXPECT_EQ(plan.victims.size(), missing > spare ? missing - spare : 0);
      for (uint32_t victim : plan.victims) {
        EXPECT_FALSE(std::binary_search(selected.begin(), selected.end(), victim));
        free.push_back(hot.Remove(victim));
      }
      for (uint32_t page : plan.recall) {
        hot.Insert(page, free.back());
        free.pop_back();
      }
      ASSERT_TRUE(hot.CheckInvariants().ok());
      EXPECT_LE(hot.pages().size(), room);
      EXPECT_EQ(hot.CountMissing(selected), 0u);
      for (uint32_t page : pinned) EXPECT_TRUE(hot.resident(page));
      EXPECT_EQ(free.size() + hot.pages().size(), n);
    }
  }
}

TEST(HotSet, PagesThatCameAheadAreUsedOnceOrWasted) {
  HotSet hot;
  hot.Insert(1, 10);
  hot.InsertAhead(5, 11);
  hot.InsertAhead(2, 12);
  hot.InsertAhead(7, 13);
  EXPECT_TRUE(hot.CheckInvariants().ok());
  const std::vector<uint32_t> selected = {1, 5, 6};
  EXPECT_EQ(hot.TakeUsed(selected), 1u);
  EXPECT_EQ(hot.TakeUsed(selected), 0u);
  EXPECT_EQ(hot.Remove(1), 10u);
  EXPECT_EQ(hot.Remove(5), 11u);
  EXPECT_EQ(hot.TakeWasted(), 0u);
  EXPECT_EQ(hot.Remove(2), 12u);
  EXPECT_EQ(hot.TakeWasted(), 1u);
  EXPECT_EQ(hot.TakeWasted(), 0u);
  // Another stay of the page is another matter.
  hot.Insert(2, 14);
  EXPECT_EQ(hot.Remove(2), 14u);
  EXPECT_EQ(hot.TakeWasted(), 0u);
}

}  // namespace
}  // namespace varve::worker
