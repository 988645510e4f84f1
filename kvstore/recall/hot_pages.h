// What a worker had in its hot sets when it let go of a context: pages by layer and KV head, kept
// for who attaches the context next. A hint and nothing more: one that is wrong costs a prefetch.
//
// Threads: values without locks; KeptHotPages is immutable.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/page/geometry.h"
#include "kvstore/recall/shared_rows.h"

namespace varve::recall {

inline constexpr uint64_t kMaxHotPages = 4 << 20;  // of one context

struct HotPages {
  uint32_t layer = 0;
  uint32_t kv_head = 0;
  std::vector<uint32_t> attended;  // in the last step, ascending
  std::vector<uint32_t> others;    // ascending, none of the attended
};

// INVALID_ARGUMENT names the first that a context of so many blocks cannot have: entries ascend by
// layer and KV head.
absl::Status CheckHotPages(const page::Geometry& geometry, uint32_t num_blocks,
                           std::span<const HotPages> hot);

// Counts against the budget as long as it lives.
class KeptHotPages {
 public:
  // Null when the budget has no room for them. budget outlives what is kept.
  static std::shared_ptr<const KeptHotPages> Keep(std::vector<HotPages> hot, ByteBudget* budget);
  ~KeptHotPages() { budget_->Give(bytes_); }
  KeptHotPages(const KeptHotPages&) = delete;
  KeptHotPages& operator=(const KeptHotPages&) = delete;

  // Those below `end`.
  std::vector<HotPages> Below(uint32_t end) const;

 private:
  KeptHotPages(std::vector<HotPages> hot, uint64_t bytes, ByteBudget* budget)
      : hot_(std::move(hot)), bytes_(bytes), budget_(budget) {}

  const std::vector<HotPages> hot_;
  const uint64_t bytes_;
  ByteBudget* const budget_;
};

}  // namespace varve::recall
