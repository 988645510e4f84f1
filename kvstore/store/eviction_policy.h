// Which object goes first when room is needed. A policy orders objects; whether one may go (pins,
// holds, handles) is the index's business.
//
// Not thread-safe: the store calls a policy under its lock, so every method must be O(1) or
// amortised O(1) and must not allocate per call in the steady state. Nodes are embedded in the
// objects (no look-up, no allocation); a node is in at most one policy, and must be erased or taken
// as a victim before it is destroyed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "kvstore/base/registry.h"

namespace varve::store {

struct EvictionNode {
  // The same for every life of one key: lets a policy recognise a key that came back.
  uint64_t identity = 0;
  uint64_t bytes = 0;
  // Of the prompt that it was computed for, all of it; 0: not known.
  uint32_t prompt_tokens = 0;
  uint32_t tokens = 0;  // whose keys and values it has; 0: not known

  // The policy's own.
  uint8_t uses = 0;
  uint8_t queue = 0;
  double priority = 0;
  EvictionNode* newer = nullptr;
  EvictionNode* older = nullptr;
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  // node is in no policy.
  virtual void Insert(EvictionNode& node) = 0;
  // node is in this policy, and was used.
  virtual void Touch(EvictionNode& node) = 0;
  // node is in this policy, and leaves it for a reason of its own (removed, pinned).
  virtual void Erase(EvictionNode& node) = 0;
  // Takes out the node to evict next; null when there is none.
  virtual EvictionNode* Victim() = 0;
  // node was taken out by Victim, may be back by Return, and was used meanwhile.
  virtual void TouchOutside(EvictionNode& node) = 0;
  // node was taken out by Victim and stays after all, so it is nothing that came back: it becomes
  // the youngest of its like.
  virtual void Return(EvictionNode& node) = 0;
  // node is the last victim, and waits outside until others have left: then ReturnOldest, or Return
  // when it was used meanwhile.
  virtual void Defer(EvictionNode& node) = 0;
  // The others have left: it is the oldest of its like, and so the next victim, or soon.
  virtual void ReturnOldest(EvictionNode& node) = 0;
  virtual size_t size() const = 0;
};

struct EvictionPolicyRow {
  std::unique_ptr<EvictionPolicy> (*create)();
  std::string_view summary;
};

// The known policies: lru, s3fifo, cost.
const base::Registry<EvictionPolicyRow>& EvictionPolicies();

}  // namespace varve::store
