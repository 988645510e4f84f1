#include "kvstore/store/s3_fifo_policy.h"

#include <algorithm>

#include "kvstore/store/ghost_queue.h"
#include "kvstore/store/node_list.h"

namespace varve::store {
namespace {

constexpr uint64_t kSmallShare = 2;  // one part of so many is the small queue's
constexpr uint8_t kMostUses = 3;

class S3FifoPolicy final : public EvictionPolicy {
 public:
  void Insert(EvictionNode& node) override {
    node.uses = 0;
    Push(node, ghosts_.Take(node.identity).has_value() ? kMain : kSmall);
  }

  void Return(EvictionNode& node) override { Push(node, static_cast<Queue>(node.queue)); }
  void Defer(EvictionNode& node) override { ghosts_.Withdraw(node.identity); }
  void ReturnOldest(EvictionNode& node) override { queues_[node.queue].PushOldest(node); }

  void Touch(EvictionNode& node) override {
    node.uses = std::min<uint8_t>(node.uses + 1, kMostUses);
  }

  void TouchOutside(EvictionNode& node) override { Touch(node); }

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
        ghosts_.Add(node->identity, 0, size() + 1);
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
