#include "kvstore/store/lru_policy.h"

#include "kvstore/store/node_list.h"

namespace varve::store {
namespace {

class LruPolicy final : public EvictionPolicy {
 public:
  void Insert(EvictionNode& node) override { nodes_.PushNewest(node); }
  void Return(EvictionNode& node) override { nodes_.PushNewest(node); }
  void Defer(EvictionNode&) override {}
  void ReturnOldest(EvictionNode& node) override { nodes_.PushOldest(node); }

  void Touch(EvictionNode& node) override {
    if (nodes_.newest() == &node) return;
    nodes_.Erase(node);
    nodes_.PushNewest(node);
  }

  void TouchOutside(EvictionNode&) override {}  // Return makes it the newest

  void Erase(EvictionNode& node) override { nodes_.Erase(node); }
  EvictionNode* Victim() override { return nodes_.PopOldest(); }
  size_t size() const override { return nodes_.size(); }

 private:
  NodeList nodes_;
};

}  // namespace

std::unique_ptr<EvictionPolicy> MakeLruPolicy() { return std::make_unique<LruPolicy>(); }

}  // namespace varve::store
