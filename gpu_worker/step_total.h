// What the KV heads of a layer may select together under adaptive budgets: as many pages as by
// their fixed budget, and what earlier layers of the same step have left of theirs. So no step
// selects more than with fixed budgets. Not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>

namespace varve::worker {

class StepTotal {
 public:
  // Pages for the layer, whose own are so many. A step is layers in ascending order at one number
  // of tokens; the same layer once more, as when a step is tried again, gets what it got.
  uint64_t For(uint32_t layer, uint64_t tokens, uint64_t own) {
    const bool same_step = tokens == tokens_ && layer >= layer_;
    if (!same_step) {
      before_ = 0;
    } else if (layer > layer_) {
      before_ = left_;
    }
    layer_ = layer;
    tokens_ = tokens;
    total_ = own + before_;
    left_ = total_;
    return total_;
  }
  // So many of the pages of the last For were selected.
  void Select(uint64_t pages) { left_ = total_ - std::min(pages, total_); }

 private:
  uint32_t layer_ = 0;  // of the last For, as the others
  uint64_t tokens_ = 0;
  uint64_t before_ = 0;  // left by the layers before it
  uint64_t total_ = 0;
  uint64_t left_ = 0;  // by it and those before it
};

}  // namespace varve::worker
