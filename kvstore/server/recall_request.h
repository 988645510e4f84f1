// A RecallRequest, checked against its context and the session's memory.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/page/geometry.h"
#include "kvstore/recall/context_table.h"
#include "kvstore/server/core.h"
#include "kvstore/server/memory_refs.h"
#include "varve/v1/store.pb.h"

namespace varve::server {

// Where the missing pages of one (layer, KV head) go.
struct HeadTarget {
  page::Part part = page::Part::kKV;
  std::vector<Piece> slots;
  // With kKV: of these pages, but for the outliers, the values alone.
  uint32_t values_begin = 0;
  uint32_t values_end = 0;
  std::span<const uint32_t> outliers = {};  // points into the request

  bool ValuesAlone(uint32_t page) const {
    return page >= values_begin && page < values_end &&
           !std::binary_search(outliers.begin(), outliers.end(), page);
  }
};

struct CheckedRecall {
  SessionRef session;  // first: outlives the pieces
  recall::ContextOptions context;
  recall::SelectParams params;
  std::vector<recall::LayerQuery> layers;        // points into the request
  std::vector<std::vector<HeadTarget>> targets;  // [layer of the request][KV head]
  absl::Time deadline;
  bool prefetch = false;  // gives way to all that is not
};

// The whole request or the first problem, named by layer and head. Does not look at digests or
// pages: Select does. The deadline counts from `arrived`, when the request was read: a client that
// gave up must know when its slots are its own again. DEADLINE_EXCEEDED when it is over already.
absl::StatusOr<CheckedRecall> CheckRecall(Core& core, absl::Time arrived,
                                          const varve::v1::RecallRequest& request);

}  // namespace varve::server
