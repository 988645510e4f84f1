#include "kvstore/store/lru_policy.h"

namespace varve::store {
namespace {

// A doubly linked list from oldest_ to newest_.
class LruPolicy final : public EvictionPolicy {
 public:
  void Insert(EvictionNode& node) override {
    node.older = newest_;
    node.newer = nullptr;
    (newest_ != nullptr ? newest_->newer : oldest_) = &node;
    newest_ = &node;
    ++size_;
  }

  void Touch(EvictionNode& node) override {
    if (newest_ == &node) return;
    Erase(node);
    Insert(node);
  }

  void Erase(EvictionNode& node) override {
    (node.older != nullptr ? node.older->newer : oldest_) = node.newer;
    (node.newer != nullptr ? node.newer->older : newest_) = node.older;
    node.older = nullptr;
    node.newer = nullptr;
    --size_;
  }

  EvictionNode* Victim() override {
    EvictionNode* victim = oldest_;
    if (victim != nullptr) Erase(*victim);
    return victim;
  }

  size_t size() const override { return size_; }

 private:
  EvictionNode* oldest_ = nullptr;
  EvictionNode* newest_ = nullptr;
  size_t size_ = 0;
};

}  // namespace

std::unique_ptr<EvictionPolicy> MakeLruPolicy(uint64_t /*capacity_bytes*/) {
  return std::make_unique<LruPolicy>();
}

}  // namespace varve::store
