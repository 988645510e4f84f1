#include "client/bench/trace_simulation.h"

#include <chrono>
#include <limits>
#include <memory>
#include <queue>
#include <utility>
#include <vector>

#include "kvstore/base/status.h"
#include "kvstore/store/cost_policy.h"
#include "kvstore/store/eviction_policy.h"

namespace varve::client {
namespace {

constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();

double CostOf(size_t block) {
  return store::RecomputeCost((static_cast<double>(block) + 0.5) * kTraceBlockTokens);
}

// prefix: leading blocks of a request that were there.
void Count(size_t blocks, size_t prefix, SimulatedCache& result) {
  result.prefix_hits += prefix;
  for (size_t i = 0; i < blocks; ++i) {
    result.saved_cost += i < prefix ? CostOf(i) : 0;
    result.whole_cost += CostOf(i);
  }
}

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class PolicyCache {
 public:
  PolicyCache(std::unique_ptr<store::EvictionPolicy> policy, const Trace& trace, uint32_t capacity)
      : policy_(std::move(policy)),
        capacity_(capacity),
        nodes_(trace.distinct_blocks),
        present_(trace.distinct_blocks) {
    for (uint32_t block = 0; block < nodes_.size(); ++block) {
      nodes_[block].identity = block;
      nodes_[block].bytes = 1;
    }
  }

  bool Has(uint32_t block) const { return present_[block]; }

  // Was it there?
  bool Use(uint32_t block, uint32_t prompt_tokens) {
    store::EvictionNode& node = nodes_[block];
    if (present_[block]) {
      policy_->Touch(node);
      return true;
    }
    if (policy_->size() == capacity_) {
      present_[static_cast<uint32_t>(policy_->Victim()->identity)] = false;
    }
    node.prompt_tokens = prompt_tokens;
    policy_->Insert(node);
    present_[block] = true;
    return false;
  }

 private:
  std::unique_ptr<store::EvictionPolicy> policy_;
  const uint32_t capacity_;
  std::vector<store::EvictionNode> nodes_;
  std::vector<bool> present_;
};

class BeladyCache {
 public:
  BeladyCache(const Trace& trace, uint32_t capacity)
      : capacity_(capacity),
        next_use_(trace.references, kNever),
        next_of_(trace.distinct_blocks, kNever) {
    uint64_t at = trace.references;
    for (auto request = trace.requests.rbegin(); request != trace.requests.rend(); ++request) {
      for (auto block = request->blocks.rbegin(); block != request->blocks.rend(); ++block) {
        --at;
        next_use_[at] = std::exchange(next_of_[*block], at);
      }
    }
    // Of the blocks that are in the cache, from here on.
    next_of_.assign(trace.distinct_blocks, kNever);
  }

  bool Use(uint32_t block) {
    const uint64_t next = next_use_[now_];
    const bool hit = next_of_[block] == now_++;
    if (hit) --size_;
    next_of_[block] = kNever;
    if (next == kNever) return hit;
    if (size_ == capacity_) {
      // What was used since it was put in, or pushed out, is in again with another next use, or not
      // at all.
      while (next_of_[farthest_.top().second] != farthest_.top().first) farthest_.pop();
      if (farthest_.top().first < next) return hit;
      next_of_[farthest_.top().second] = kNever;
      farthest_.pop();
      --size_;
    }
    next_of_[block] = next;
    farthest_.emplace(next, block);
    ++size_;
    return hit;
  }

 private:
  const uint32_t capacity_;
  std::vector<uint64_t> next_use_;  // by reference
  std::vector<uint64_t> next_of_;   // by block, when it is in the cache
  std::priority_queue<std::pair<uint64_t, uint32_t>> farthest_;
  uint64_t now_ = 0;
  uint32_t size_ = 0;
};

SimulatedCache Replay(const Trace& trace, BeladyCache cache) {
  SimulatedCache result;
  const auto begin = std::chrono::steady_clock::now();
  for (const TraceRequest& request : trace.requests) {
    size_t prefix = 0;
    for (size_t i = 0; i < request.blocks.size(); ++i) {
      const bool hit = cache.Use(request.blocks[i]);
      result.hits += hit ? 1 : 0;
      if (hit && prefix == i) ++prefix;
    }
    Count(request.blocks.size(), prefix, result);
  }
  result.seconds = SecondsSince(begin);
  return result;
}

// As engines and the store do: the prefix that is there is got, then the rest is put, and of each
// the last block is used first.
SimulatedCache Replay(const Trace& trace, PolicyCache cache) {
  SimulatedCache result;
  const auto begin = std::chrono::steady_clock::now();
  for (const TraceRequest& request : trace.requests) {
    const std::vector<uint32_t>& blocks = request.blocks;
    size_t prefix = 0;
    while (prefix < blocks.size() && cache.Has(blocks[prefix])) ++prefix;
    for (size_t i = prefix; i-- > 0;) {
      result.hits += cache.Use(blocks[i], request.input_tokens) ? 1 : 0;
    }
    for (size_t i = blocks.size(); i-- > prefix;) {
      result.hits += cache.Use(blocks[i], request.input_tokens) ? 1 : 0;
    }
    Count(blocks.size(), prefix, result);
  }
  result.seconds = SecondsSince(begin);
  return result;
}

}  // namespace

absl::StatusOr<SimulatedCache> SimulateCache(const Trace& trace, const std::string& policy,
                                             uint32_t capacity_blocks) {
  if (policy == kBelady) return Replay(trace, BeladyCache(trace, capacity_blocks));
  VARVE_ASSIGN_OR_RETURN(const auto* row, store::EvictionPolicies().Find(policy));
  return Replay(trace, PolicyCache(row->create(), trace, capacity_blocks));
}

}  // namespace varve::client
