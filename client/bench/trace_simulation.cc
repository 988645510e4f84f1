#include "client/bench/trace_simulation.h"

#include <chrono>
#include <limits>
#include <memory>
#include <queue>
#include <utility>
#include <vector>

#include "kvstore/base/status.h"
#include "kvstore/store/eviction_policy.h"

namespace varve::client {
namespace {

constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();

// Calls use(block) -> was it there?
template <typename Use>
SimulatedCache Replay(const Trace& trace, Use&& use) {
  SimulatedCache result;
  const auto begin = std::chrono::steady_clock::now();
  for (const TraceRequest& request : trace.requests) {
    bool whole = true;
    for (const uint32_t block : request.blocks) {
      const bool hit = use(block);
      whole = whole && hit;
      result.hits += hit ? 1 : 0;
      result.prefix_hits += whole ? 1 : 0;
    }
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return result;
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

  bool Use(uint32_t block) {
    store::EvictionNode& node = nodes_[block];
    if (present_[block]) {
      policy_->Touch(node);
      return true;
    }
    if (policy_->size() == capacity_) {
      present_[static_cast<uint32_t>(policy_->Victim()->identity)] = false;
    }
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

}  // namespace

absl::StatusOr<SimulatedCache> SimulateCache(const Trace& trace, const std::string& policy,
                                             uint32_t capacity_blocks) {
  if (policy == kBelady) {
    BeladyCache cache(trace, capacity_blocks);
    return Replay(trace, [&](uint32_t block) { return cache.Use(block); });
  }
  VARVE_ASSIGN_OR_RETURN(const auto* row, store::EvictionPolicies().Find(policy));
  PolicyCache cache(row->create(), trace, capacity_blocks);
  return Replay(trace, [&](uint32_t block) { return cache.Use(block); });
}

}  // namespace varve::client
