// A doubly linked list through the nodes themselves, from the oldest to the newest.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvstore/store/eviction_policy.h"

namespace varve::store {

class NodeList {
 public:
  void PushNewest(EvictionNode& node) {
    node.older = newest_;
    node.newer = nullptr;
    (newest_ != nullptr ? newest_->newer : oldest_) = &node;
    newest_ = &node;
    ++size_;
    bytes_ += node.bytes;
  }

  void PushOldest(EvictionNode& node) {
    node.newer = oldest_;
    node.older = nullptr;
    (oldest_ != nullptr ? oldest_->older : newest_) = &node;
    oldest_ = &node;
    ++size_;
    bytes_ += node.bytes;
  }

  void Erase(EvictionNode& node) {
    (node.older != nullptr ? node.older->newer : oldest_) = node.newer;
    (node.newer != nullptr ? node.newer->older : newest_) = node.older;
    node.older = nullptr;
    node.newer = nullptr;
    --size_;
    bytes_ -= node.bytes;
  }

  // Null when the list is empty.
  EvictionNode* PopOldest() {
    EvictionNode* node = oldest_;
    if (node != nullptr) Erase(*node);
    return node;
  }

  EvictionNode* oldest() const { return oldest_; }
  EvictionNode* newest() const { return newest_; }
  size_t size() const { return size_; }
  uint64_t bytes() const { return bytes_; }

 private:
  EvictionNode* oldest_ = nullptr;
  EvictionNode* newest_ = nullptr;
  size_t size_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace varve::store
