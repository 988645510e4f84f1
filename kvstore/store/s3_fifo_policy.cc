#include "kvstore/store/s3_fifo_policy.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "kvstore/store/node_list.h"

namespace varve::store {
namespace {

constexpr uint64_t kSmallShare = 2;  // one part of so many is the small queue's
constexpr uint8_t kMostUses = 3;

// The newest identities, without their objects.
class GhostQueue {
 public:
  // Keeps at most `limit`, the new one among them.
  void Add(uint64_t identity, size_t limit) {
    places_[identity] = next_;
    order_.emplace_back(identity, next_++);
    while (order_.size() > limit) {
      const auto [oldest, place] = order_.front();
      order_.pop_front();
      const auto found = places_.find(oldest);
      if (found != places_.end() && found->second == place) places_.erase(found);
    }
  }
  // True: it was in, and leaves.
  bool Take(uint64_t identity) { return places_.erase(identity) > 0; }

 private:
  uint64_t next_ = 0;
  std::deque<std::pair<uint64_t, uint64_t>> order_;  // identity, place; some have left since
  absl::flat_hash_map<uint64_t, uint64_t> places_;
};

class S3FifoPolicy final : public EvictionPolicy {
 public:
  void Insert(EvictionNode& node) override {
    node.uses = 0;
    Push(node, ghosts_.Take(node.identity) ? kMain : kSmall);
  }

  void Touch(EvictionNode& node) override {
    node.uses = std::min<uint8_t>(node.uses + 1, kMostUses);
  }

  void Erase(EvictionNode& node) override { queues_[node.queue].Erase(node); }

  EvictionNode* Victim() override {
    // Each node is passed over kMostUses times at most between two uses.
    while (size() > 0) {
      NodeList& small = queues_[kSmall];
      NodeList& main = queues_[kMain];
      const bool from_small =
          small.size() > 0 &&
          (main.size() == 0 || small.bytes() * kSmallShare >= small.bytes() + main.bytes());
      EvictionNode* node = (from_small ? small : main).PopOldest();
      if (from_small && node->uses == 0) {
        ghosts_.Add(node->identity, size() + 1);
        return node;
      }
      if (!from_small && node->uses == 0) return node;
      node->uses = from_small ? 0 : node->uses - 1;
      Push(*node, kMain);
    }
    return nullptr;
  }

  size_t size() const override { return queues_[kSmall].size() + queues_[kMain].size(); }

 private:
  enum Queue : uint8_t { kSmall, kMain };

  void Push(EvictionNode& node, Queue queue) {
    node.queue = queue;
    queues_[queue].PushNewest(node);
  }

  NodeList queues_[2];
  GhostQueue ghosts_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> MakeS3FifoPolicy() { return std::make_unique<S3FifoPolicy>(); }

}  // namespace varve::store
