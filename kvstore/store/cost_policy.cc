#include "kvstore/store/cost_policy.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "kvstore/store/ghost_queue.h"
#include "kvstore/store/node_list.h"

namespace varve::store {
namespace {

constexpr double kPositionOfTwo = 53406;
// Classes of numbers of uses: 1, 2, 3, 4 to 7, 8 to 15 and so on, 64 and more.
constexpr uint8_t kUseClasses = 8;
constexpr double kEarlierNodes = 100;  // so many were seen at start, used as one would guess
// Events. Seldom enough that the blocks of one prompt mostly have one value, and leave in order.
constexpr uint64_t kLearnAfter = 1024;
constexpr uint64_t kForgetAfter = 20 * kLearnAfter;
constexpr double kLateUse = 0.25;
constexpr size_t kGhosts = 4;  // for each node

uint8_t ClassOf(uint8_t uses) {
  if (uses < 4) return uses;
  return static_cast<uint8_t>(std::min<int>(std::bit_width(uses) + 1, kUseClasses));
}

// How likely a node with so many uses is to see another, by those of late.
class Reuse {
 public:
  Reuse() {
    for (uint32_t c = 1; c <= kUseClasses; ++c) {
      const uint32_t uses = c < 4 ? c : 1u << (c - 2);
      seen_[c] = kEarlierNodes;
      used_[c] = kEarlierNodes * uses / (uses + 1);
    }
    Learn();
  }

  // A node has this many uses from now on.
  void Saw(uint8_t uses) {
    ++seen_[ClassOf(uses)];
    ++events_;
    if (events_ % kLearnAfter == 0) Learn();
    if (events_ % kForgetAfter != 0) return;
    for (double& count : seen_) count /= 2;
    for (double& count : used_) count /= 2;
  }
  // One that had so many was used.
  void Used(uint8_t uses, double weight) { used_[ClassOf(uses)] += weight; }
  double operator[](uint8_t uses) const { return reuse_[ClassOf(uses)]; }

 private:
  // More uses never make it less likely: a head has all uses of what depends on it.
  void Learn() {
    double reuse = 0;
    for (uint32_t c = 1; c <= kUseClasses; ++c) {
      reuse = std::max(reuse, used_[c] / seen_[c]);
      reuse_[c] = reuse;
    }
  }

  std::array<double, kUseClasses + 1> seen_{};
  std::array<double, kUseClasses + 1> used_{};
  std::array<double, kUseClasses + 1> reuse_{};
  uint64_t events_ = 0;
};

// How many tokens a node has for its bytes, where the mean of those that say so is 1.
class Density {
 public:
  void Saw(const EvictionNode& node) {
    if (node.tokens == 0 || node.bytes == 0) return;
    bytes_ += static_cast<double>(node.bytes);
    tokens_ += node.tokens;
    if (++seen_ % kForgetAfter != 0) return;
    bytes_ /= 2;
    tokens_ /= 2;
  }
  double Of(const EvictionNode& node) const {
    if (node.tokens == 0 || node.bytes == 0) return 1;
    return node.tokens / static_cast<double>(node.bytes) * bytes_ / tokens_;
  }

 private:
  double bytes_ = 0;
  double tokens_ = 0;
  uint64_t seen_ = 0;
};

class CostPolicy final : public EvictionPolicy {
 public:
  CostPolicy() {
    for (int i = 0; i < kQueues; ++i) values_[i] = std::exp2((i - kQueueOfOne) / 4.0);
  }

  void Insert(EvictionNode& node) override {
    node.uses = 0;
    density_.Saw(node);
    if (const auto uses = ghosts_.Take(node.identity)) {
      node.uses = *uses;
      reuse_.Used(*uses, kLateUse);
    }
    CountUse(node);
    Push(node);
  }

  void Touch(EvictionNode& node) override {
    Erase(node);
    TouchOutside(node);
    Push(node);
  }
  void TouchOutside(EvictionNode& node) override {
    reuse_.Used(node.uses, 1);
    CountUse(node);
  }

  void Return(EvictionNode& node) override { Push(node); }
  void Defer(EvictionNode& node) override { ghosts_.Withdraw(node.identity); }
  // With the priority that made it a victim, which is below all others.
  void ReturnOldest(EvictionNode& node) override {
    queues_[node.queue].PushOldest(node);
    Count(node);
  }

  void Erase(EvictionNode& node) override {
    NodeList& queue = queues_[node.queue];
    queue.Erase(node);
    if (queue.size() == 0) filled_ &= ~(uint64_t{1} << node.queue);
    --size_;
  }

  EvictionNode* Victim() override {
    EvictionNode* victim = nullptr;
    for (uint64_t left = filled_; left != 0; left &= left - 1) {
      EvictionNode* node = queues_[std::countr_zero(left)].oldest();
      if (victim == nullptr || node->priority < victim->priority) victim = node;
    }
    if (victim == nullptr) return nullptr;
    age_ = victim->priority;
    Erase(*victim);
    ghosts_.Add(victim->identity, victim->uses, kGhosts * (size_ + 1));
    return victim;
  }

  size_t size() const override { return size_; }

 private:
  static constexpr int kQueues = 64;      // a bit each of filled_
  static constexpr int kQueueOfOne = 36;  // values of 2^-9 to 2^7 have queues of their own

  void CountUse(EvictionNode& node) {
    if (node.uses < UINT8_MAX) ++node.uses;
    reuse_.Saw(node.uses);
  }

  void Push(EvictionNode& node) {
    const double value =
        reuse_[node.uses] * RecomputeCost(node.prompt_tokens / 2.0) * density_.Of(node);
    const auto queue = std::lround(4 * std::log2(value)) + kQueueOfOne;
    node.queue = static_cast<uint8_t>(std::clamp<long>(queue, 0, kQueues - 1));
    node.priority = age_ + values_[node.queue];
    queues_[node.queue].PushNewest(node);
    Count(node);
  }
  void Count(const EvictionNode& node) {
    filled_ |= uint64_t{1} << node.queue;
    ++size_;
  }

  std::array<double, kQueues> values_;
  std::array<NodeList, kQueues> queues_;
  uint64_t filled_ = 0;  // the queues that have any
  double age_ = 0;
  size_t size_ = 0;
  Reuse reuse_;
  Density density_;
  GhostQueue ghosts_;
};

}  // namespace

double RecomputeCost(double token_position) { return 1 + token_position / kPositionOfTwo; }

std::unique_ptr<EvictionPolicy> MakeCostPolicy() { return std::make_unique<CostPolicy>(); }

}  // namespace varve::store
