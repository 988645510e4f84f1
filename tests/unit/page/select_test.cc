#include "kvstore/page/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "tests/unit/page/test_data.h"

namespace varve::page {
namespace {

using testing::Rng;
using Ids = std::vector<uint32_t>;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

Ids Select(const std::vector<float>& scores, const Ids& pinned, uint32_t budget) {
  SelectScratch scratch;
  Ids out(std::max<size_t>(budget, pinned.size()) + 1, 0xdeadu);
  const uint32_t count = SelectPages(scores, pinned, budget, scratch, out);
  out.resize(count);
  return out;
}

// Sorts everything: the slow truth.
Ids SelectReference(const std::vector<float>& scores, const Ids& pinned, uint32_t budget) {
  const std::set<uint32_t> in(pinned.begin(), pinned.end());
  std::vector<std::pair<std::pair<int, double>, uint32_t>> others;
  for (uint32_t i = 0; i < scores.size(); ++i) {
    if (in.contains(i)) continue;
    const bool nan = std::isnan(scores[i]);
    others.push_back({{nan ? 1 : 0, nan ? 0.0 : -double{scores[i]}}, i});
  }
  std::sort(others.begin(), others.end());
  Ids out = pinned;
  for (size_t i = 0; i < others.size() && out.size() < budget; ++i) out.push_back(others[i].second);
  std::sort(out.begin(), out.end());
  return out;
}

// Few distinct values, so that ties are common.
std::vector<float> RandomScores(Rng& rng, uint32_t count) {
  std::vector<float> scores(count);
  for (float& s : scores) {
    s = rng.Chance(0.5) ? static_cast<float>(rng.Below(5)) : rng.Normal();
    if (rng.Chance(0.05)) s = kNaN;
    if (rng.Chance(0.03)) s = rng.Chance(0.5) ? kInf : -kInf;
  }
  return scores;
}

Ids RandomSubset(Rng& rng, uint32_t count, double p) {
  Ids ids;
  for (uint32_t i = 0; i < count; ++i) {
    if (rng.Chance(p)) ids.push_back(i);
  }
  return ids;
}

bool Contains(const Ids& super, const Ids& sub) {
  return std::includes(super.begin(), super.end(), sub.begin(), sub.end());
}

TEST(SelectPagesTest, EqualsAFullSort) {
  constexpr uint64_t kSeed = 401;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 2000; ++i) {
    const uint32_t pages = rng.Below(80);
    const auto scores = RandomScores(rng, pages);
    const Ids pinned = RandomSubset(rng, pages, 0.1);
    const uint32_t budget = rng.Below(pages + 10);
    EXPECT_EQ(Select(scores, pinned, budget), SelectReference(scores, pinned, budget));
  }
}

TEST(SelectPagesTest, TiesGoToTheLowerIdAndNaNComesLast) {
  EXPECT_EQ(Select({1, 2, 2, 2, 0}, {}, 2), (Ids{1, 2}));
  EXPECT_EQ(Select({kNaN, -kInf, kNaN}, {}, 1), (Ids{1}));
  EXPECT_EQ(Select({kNaN, -kInf, kNaN}, {}, 2), (Ids{0, 1}));
  EXPECT_EQ(Select({0.0f, -0.0f, 0.0f}, {}, 2), (Ids{0, 1}));
  EXPECT_EQ(Select({5, 4, 3}, {2}, 2), (Ids{0, 2}));
  EXPECT_EQ(Select({5, 4, 3}, {1, 2}, 1), (Ids{1, 2})) << "pinned pages are in beyond the budget";
  EXPECT_EQ(Select({5, 4, 3}, {}, 0), Ids{});
  EXPECT_EQ(Select({5, 4, 3}, {}, 9), (Ids{0, 1, 2}));
  EXPECT_EQ(Select({}, {}, 4), Ids{});
}

TEST(SelectPagesTest, ScratchIsReusable) {
  SelectScratch scratch;
  Ids out(3);
  for (int i = 0; i < 3; ++i) {
    const std::vector<float> scores = {1, 5, 3, 4};
    ASSERT_EQ(SelectPages(scores, {}, 3, scratch, out), 3u);
    EXPECT_EQ(out, (Ids{1, 2, 3}));
  }
}

// P17: a larger budget keeps what a smaller one kept, so kept mass and recall lists grow
// monotonically.
TEST(SelectPagesPropertyTest, LargerBudgetsContainSmallerOnes) {
  constexpr uint64_t kSeed = 402;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 200; ++i) {
    const uint32_t pages = rng.Between(1, 60);
    const auto scores = RandomScores(rng, pages);
    const Ids pinned = RandomSubset(rng, pages, 0.1);
    const Ids resident = RandomSubset(rng, pages, 0.3);
    std::vector<double> mass(pages);
    for (double& m : mass) m = std::exp(rng.Normal());
    Ids previous, previous_recall;
    double previous_mass = 0;
    for (uint32_t k = 0; k <= pages; ++k) {
      const Ids selected = Select(scores, pinned, k);
      Ids recall;
      std::set_difference(selected.begin(), selected.end(), resident.begin(), resident.end(),
                          std::back_inserter(recall));
      double kept = 0;
      for (uint32_t id : selected) kept += mass[id];
      EXPECT_TRUE(Contains(selected, previous));
      EXPECT_TRUE(Contains(recall, previous_recall));
      EXPECT_GE(kept, previous_mass);
      previous = selected, previous_recall = recall, previous_mass = kept;
    }
    EXPECT_EQ(previous.size(), pages);
  }
}

TEST(PinnedPagesTest, FirstAndLastWithoutOverlap) {
  Ids out;
  for (uint32_t pages = 0; pages < 12; ++pages) {
    for (uint32_t sinks = 0; sinks < 15; ++sinks) {
      for (uint32_t window = 0; window < 15; ++window) {
        Ids expected;
        for (uint32_t i = 0; i < pages; ++i) {
          if (i < sinks || i + window >= pages) expected.push_back(i);
        }
        PinnedPages(pages, sinks, window, out);
        EXPECT_EQ(out, expected) << pages << " " << sinks << " " << window;
      }
    }
  }
  PinnedPages(4, 0xffffffffu, 0xffffffffu, out);
  EXPECT_EQ(out, (Ids{0, 1, 2, 3}));
}

TEST(BudgetPagesTest, FractionFloorAndCeiling) {
  EXPECT_EQ(BudgetPages(0.1, 4, 128), 13u);
  EXPECT_EQ(BudgetPages(0.1, 20, 128), 20u);
  EXPECT_EQ(BudgetPages(0.5, 0, 7), 4u);
  EXPECT_EQ(BudgetPages(1.0, 0, 7), 7u);
  EXPECT_EQ(BudgetPages(3.0, 0, 7), 7u);
  EXPECT_EQ(BudgetPages(kInf, 0, 7), 7u);
  EXPECT_EQ(BudgetPages(0.0, 3, 2), 2u);
  EXPECT_EQ(BudgetPages(-1.0, 3, 10), 3u);
  EXPECT_EQ(BudgetPages(kNaN, 3, 10), 3u);
  EXPECT_EQ(BudgetPages(1.0, 0, 0xffffffffu), 0xffffffffu);
}

struct Situation {
  uint32_t pages;
  Ids selected, resident, locked;
  std::vector<float> scores;
  uint32_t capacity;
};

Situation RandomSituation(Rng& rng) {
  Situation s;
  s.pages = rng.Between(1, 60);
  s.resident = RandomSubset(rng, s.pages, 0.4);
  s.selected = RandomSubset(rng, s.pages, 0.3);
  for (uint32_t id : s.resident) {
    if (rng.Chance(0.15)) s.locked.push_back(id);
  }
  s.scores = RandomScores(rng, static_cast<uint32_t>(s.resident.size()));
  s.capacity = rng.Below(s.pages + 4);
  return s;
}

bool Plan(const Situation& s, HotSetPlan& plan) {
  return PlanHotSet(s.selected, s.resident, s.locked, s.scores, s.capacity, plan);
}

Ids Union(Ids a, const Ids& b) {
  a.insert(a.end(), b.begin(), b.end());
  std::sort(a.begin(), a.end());
  return a;
}

// P11 and P14 on random situations, feasible and not.
TEST(PlanHotSetPropertyTest, PlanKeepsTheSelectionAndTheLocks) {
  constexpr uint64_t kSeed = 403;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  int feasible = 0;
  for (int i = 0; i < 3000; ++i) {
    const Situation s = RandomSituation(rng);
    HotSetPlan plan;
    plan.victims = {7, 7, 7};  // a plan is reused between steps
    const Ids must_stay = Union(s.selected, s.locked);
    const std::set<uint32_t> needed(must_stay.begin(), must_stay.end());
    const bool fits = s.resident.size() <= s.capacity && needed.size() <= s.capacity;
    ASSERT_EQ(Plan(s, plan), fits);
    if (!fits) continue;
    ++feasible;
    EXPECT_EQ(Union(plan.hits, plan.recall), s.selected);
    EXPECT_TRUE(Contains(s.resident, plan.hits));
    EXPECT_TRUE(std::is_sorted(plan.hits.begin(), plan.hits.end()));
    EXPECT_TRUE(std::is_sorted(plan.recall.begin(), plan.recall.end()));
    const size_t free_slots = s.capacity - s.resident.size();
    const size_t wanted = plan.recall.size() > free_slots ? plan.recall.size() - free_slots : 0;
    EXPECT_EQ(plan.victims.size(), wanted) << "no more victims than needed";
    std::set<uint32_t> after(s.resident.begin(), s.resident.end());
    for (uint32_t victim : plan.victims) {
      EXPECT_EQ(after.erase(victim), 1u) << "a victim is resident, and named once";
      EXPECT_FALSE(needed.contains(victim)) << "neither selected nor locked";
    }
    for (uint32_t id : plan.recall) EXPECT_TRUE(after.insert(id).second);
    EXPECT_LE(after.size(), s.capacity);
    for (uint32_t id : s.selected) EXPECT_TRUE(after.contains(id));
  }
  EXPECT_GT(feasible, 300);
}

TEST(PlanHotSetPropertyTest, VictimsAreTheLowestScoredInOrder) {
  constexpr uint64_t kSeed = 404;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 1000; ++i) {
    const Situation s = RandomSituation(rng);
    HotSetPlan plan;
    if (!Plan(s, plan)) continue;
    std::vector<std::pair<std::pair<int, double>, int64_t>> order;
    for (size_t r = 0; r < s.resident.size(); ++r) {
      const uint32_t id = s.resident[r];
      if (std::binary_search(s.selected.begin(), s.selected.end(), id)) continue;
      if (std::binary_search(s.locked.begin(), s.locked.end(), id)) continue;
      const bool nan = std::isnan(s.scores[r]);
      order.push_back({{nan ? 0 : 1, nan ? 0.0 : double{s.scores[r]}}, -int64_t{id}});
    }
    std::sort(order.begin(), order.end());
    for (size_t v = 0; v < plan.victims.size(); ++v) {
      EXPECT_EQ(plan.victims[v], static_cast<uint32_t>(-order[v].second));
    }
  }
}

// P11 over time: slots and pages stay a bijection through a run of random steps.
TEST(PlanHotSetPropertyTest, SlotsStayABijectionThroughManySteps) {
  constexpr uint64_t kSeed = 405;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  constexpr uint32_t kPages = 64, kCapacity = 20;
  std::map<uint32_t, uint32_t> slot_of;  // page -> slot
  Ids free_slots(kCapacity);
  std::iota(free_slots.begin(), free_slots.end(), 0u);
  Ids pinned;
  PinnedPages(kPages, 2, 2, pinned);
  SelectScratch scratch;
  for (int step = 0; step < 500; ++step) {
    Ids resident;
    std::vector<float> scores = RandomScores(rng, kPages), victim_scores;
    for (const auto& [page, slot] : slot_of) {
      resident.push_back(page);
      victim_scores.push_back(scores[page]);
    }
    Ids selected(kPages);
    selected.resize(SelectPages(scores, pinned, rng.Between(4, kCapacity), scratch, selected));
    Ids locked;
    std::set_intersection(resident.begin(), resident.end(), pinned.begin(), pinned.end(),
                          std::back_inserter(locked));
    HotSetPlan plan;
    ASSERT_TRUE(PlanHotSet(selected, resident, locked, victim_scores, kCapacity, plan));
    for (uint32_t victim : plan.victims) {
      free_slots.push_back(slot_of.at(victim));
      slot_of.erase(victim);
    }
    for (uint32_t page : plan.recall) {
      ASSERT_FALSE(free_slots.empty());
      slot_of[page] = free_slots.back();
      free_slots.pop_back();
    }
    std::set<uint32_t> slots(free_slots.begin(), free_slots.end());
    for (const auto& [page, slot] : slot_of) EXPECT_TRUE(slots.insert(slot).second);
    EXPECT_EQ(slots.size(), kCapacity);
    EXPECT_LE(slot_of.size(), kCapacity);
    for (uint32_t page : selected) EXPECT_TRUE(slot_of.contains(page));
    for (uint32_t page : pinned) EXPECT_TRUE(slot_of.contains(page));
  }
}

// P14: hits are ascending, so moving each hit to the front in order never overwrites a hit not yet
// moved.
TEST(PlanHotSetPropertyTest, HitsCanBeCompactedInPlace) {
  constexpr uint64_t kSeed = 406;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (int i = 0; i < 500; ++i) {
    Situation s = RandomSituation(rng);
    s.capacity = s.pages;
    HotSetPlan plan;
    ASSERT_TRUE(Plan(s, plan));
    Ids buffer = s.resident;  // slot i holds page resident[i]
    for (size_t target = 0; target < plan.hits.size(); ++target) {
      const auto at = std::lower_bound(s.resident.begin(), s.resident.end(), plan.hits[target]);
      const auto source = static_cast<size_t>(at - s.resident.begin());
      ASSERT_GE(source, target);
      buffer[target] = buffer[source];
    }
    buffer.resize(plan.hits.size());
    EXPECT_EQ(buffer, plan.hits);
  }
}

// P19: a context that fits its budget recalls nothing and evicts nothing.
TEST(PlanHotSetPropertyTest, AContextWithinItsBudgetMovesNothing) {
  constexpr uint64_t kSeed = 407;
  VARVE_SEED(kSeed);
  Rng rng(kSeed);
  for (uint32_t pages = 1; pages < 40; ++pages) {
    const uint32_t budget = pages + rng.Below(5);
    const auto scores = RandomScores(rng, pages);
    const Ids selected = Select(scores, {}, budget);
    Ids all(pages);
    std::iota(all.begin(), all.end(), 0u);
    EXPECT_EQ(selected, all);
    HotSetPlan plan;
    ASSERT_TRUE(PlanHotSet(selected, all, {}, scores, budget, plan));
    EXPECT_EQ(plan.hits, all);
    EXPECT_TRUE(plan.recall.empty());
    EXPECT_TRUE(plan.victims.empty());
  }
}

}  // namespace
}  // namespace varve::page
