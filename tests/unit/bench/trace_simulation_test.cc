#include "client/bench/trace_simulation.h"

#include <algorithm>
#include <list>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/store/cost_policy.h"
#include "kvstore/store/eviction_policy.h"

namespace varve::client {
namespace {

using ::testing::HasSubstr;

Trace Make(const std::vector<std::vector<uint32_t>>& requests) {
  Trace trace;
  for (const auto& blocks : requests) {
    trace.requests.push_back({.blocks = blocks});
    trace.references += blocks.size();
    for (uint32_t block : blocks) {
      trace.distinct_blocks = std::max(trace.distinct_blocks, block + 1);
    }
  }
  return trace;
}

Trace Random(uint64_t seed, uint32_t distinct, uint32_t requests, uint32_t length) {
  std::mt19937_64 random(seed);
  std::vector<std::vector<uint32_t>> all(requests);
  for (auto& blocks : all) {
    for (uint32_t i = 0; i < length; ++i) {
      blocks.push_back(static_cast<uint32_t>(std::min(random() % distinct, random() % distinct)));
    }
  }
  return Make(all);
}

SimulatedCache Simulate(const Trace& trace, const std::string& policy, uint32_t capacity) {
  const auto result = SimulateCache(trace, policy, capacity);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *result : SimulatedCache{};
}

// The most hits that any choice of what to keep can have.
uint64_t BestOfAll(const std::vector<uint32_t>& references, size_t capacity) {
  std::map<std::set<uint32_t>, uint64_t> states = {{{}, 0}};
  for (const uint32_t block : references) {
    std::map<std::set<uint32_t>, uint64_t> next;
    const auto reach = [&](const std::set<uint32_t>& cache, uint64_t hits) {
      uint64_t& best = next[cache];
      best = std::max(best, hits);
    };
    for (const auto& [cache, hits] : states) {
      if (cache.contains(block)) {
        reach(cache, hits + 1);
        continue;
      }
      reach(cache, hits);
      std::set<uint32_t> with = cache;
      with.insert(block);
      if (with.size() <= capacity) {
        reach(with, hits);
        continue;
      }
      for (const uint32_t gone : cache) {
        std::set<uint32_t> without = with;
        without.erase(gone);
        reach(without, hits);
      }
    }
    states = std::move(next);
  }
  uint64_t best = 0;
  for (const auto& [cache, hits] : states) best = std::max(best, hits);
  return best;
}

TEST(TraceSimulation, BeladyHasAsManyHitsAsAnyChoiceCould) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const Trace trace = Random(seed, 7, 1, 30);
    for (const uint32_t capacity : {1u, 2u, 3u}) {
      EXPECT_EQ(Simulate(trace, "belady", capacity).hits,
                BestOfAll(trace.requests[0].blocks, capacity))
          << "capacity " << capacity;
    }
  }
}

TEST(TraceSimulation, LruIsThatOfAList) {
  const Trace trace = Random(5, 300, 40, 100);
  for (const uint32_t capacity : {1u, 10u, 100u, 299u}) {
    std::list<uint32_t> recent;
    uint64_t hits = 0;
    for (const TraceRequest& request : trace.requests) {
      size_t prefix = 0;
      while (prefix < request.blocks.size() &&
             std::count(recent.begin(), recent.end(), request.blocks[prefix]) > 0) {
        ++prefix;
      }
      std::vector<uint32_t> order = request.blocks;
      std::reverse(order.begin(), order.begin() + static_cast<ptrdiff_t>(prefix));
      std::reverse(order.begin() + static_cast<ptrdiff_t>(prefix), order.end());
      for (const uint32_t block : order) {
        const auto found = std::find(recent.begin(), recent.end(), block);
        if (found != recent.end()) {
          ++hits;
          recent.erase(found);
        } else if (recent.size() == capacity) {
          recent.pop_back();
        }
        recent.push_front(block);
      }
    }
    EXPECT_EQ(Simulate(trace, "lru", capacity).hits, hits) << "capacity " << capacity;
  }
}

TEST(TraceSimulation, NoPolicyBeatsBeladyAndRoomForAllMissesOnlyTheFirstUses) {
  for (const auto& [name, row] : store::EvictionPolicies().rows()) {
    SCOPED_TRACE(name);
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      const Trace trace = Random(seed, 500, 60, 50);
      std::set<uint32_t> distinct;
      for (const TraceRequest& request : trace.requests) {
        distinct.insert(request.blocks.begin(), request.blocks.end());
      }
      for (const uint32_t capacity : {5u, 50u, 200u}) {
        const SimulatedCache cache = Simulate(trace, name, capacity);
        EXPECT_LE(cache.hits, Simulate(trace, "belady", capacity).hits);
        EXPECT_LE(cache.prefix_hits, cache.hits);
        EXPECT_GT(cache.hits, 0u);
      }
      EXPECT_EQ(Simulate(trace, name, 500).hits, trace.references - distinct.size());
    }
  }
}

// A scan of blocks that never come back costs LRU its content, and S3-FIFO next to nothing.
TEST(TraceSimulation, S3FifoOutlastsAScan) {
  std::vector<std::vector<uint32_t>> requests;
  uint32_t next = 50;
  for (int round = 0; round < 50; ++round) {
    std::vector<uint32_t> blocks;
    for (int twice = 0; twice < 2; ++twice) {
      for (uint32_t block = 0; block < 50; ++block) blocks.push_back(block);
    }
    requests.push_back(blocks);
    std::vector<uint32_t>& scan = requests.emplace_back();
    for (int i = 0; i < 200; ++i) scan.push_back(next++);
  }
  const Trace trace = Make(requests);
  EXPECT_EQ(Simulate(trace, "lru", 100).hits, 50u * 50);
  EXPECT_GE(Simulate(trace, "s3fifo", 100).hits, 95u * 50);
}

TEST(TraceSimulation, PrefixHitsEndAtTheFirstMiss) {
  const SimulatedCache cache = Simulate(Make({{0, 1, 2}, {0, 9, 2}, {7, 0}}), "lru", 10);
  EXPECT_EQ(cache.hits, 3u);
  EXPECT_EQ(cache.prefix_hits, 1u);
}

// What has to go for a new prompt goes from the end of the oldest.
TEST(TraceSimulation, PrefixesLoseTheirEndsFirst) {
  const Trace trace = Make({{0, 1, 2, 3}, {4, 5}, {0, 1, 2, 3}});
  for (const auto& [name, row] : store::EvictionPolicies().rows()) {
    SCOPED_TRACE(name);
    const SimulatedCache cache = Simulate(trace, name, 4);
    EXPECT_EQ(cache.prefix_hits, 2u);
  }
}

TEST(TraceSimulation, SavedCostIsThatOfPrefixHits) {
  // Of the last request block 0 is there, 3 is not, and 2 is of no use.
  const SimulatedCache cache = Simulate(Make({{0, 1, 2}, {0, 3, 2}}), "lru", 10);
  const auto cost = [](double block) {
    return store::RecomputeCost((block + 0.5) * kTraceBlockTokens);
  };
  EXPECT_DOUBLE_EQ(cache.saved_cost, cost(0));
  EXPECT_DOUBLE_EQ(cache.whole_cost, 2 * (cost(0) + cost(1) + cost(2)));
}

TEST(TraceSimulation, UnknownPoliciesAreNamed) {
  EXPECT_THAT(SimulateCache(Make({{0}}), "fifo2", 1).status().ToString(), HasSubstr("'fifo2'"));
}

}  // namespace
}  // namespace varve::client
