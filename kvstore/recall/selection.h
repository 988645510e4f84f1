// From queries to pages: checks a request, scores the digests and selects, over a context's
// snapshot; with a second stage it also reads keys of candidates in the page store.
//
// Threads: functions on what they are given; no locks but the page store's. One Select scans the
// digests of (layer, KV head) pairs, in parallel when an executor is given.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/base/executor.h"
#include "kvstore/recall/candidate_keys.h"
#include "kvstore/recall/context.h"
#include "kvstore/recall/context_table.h"

namespace varve::recall {

// What can be checked without the context's state: layers, queries, heads, budgets, merge.
absl::Status CheckQueries(const ContextOptions& options, const SelectParams& params,
                          std::span<const LayerQuery> layers);

// What depends on it: candidates, resident pages, pinned pages against budgets; RESOURCE_EXHAUSTED
// when the answer would be too big. Call after CheckQueries.
absl::Status CheckCandidates(const page::Geometry& geometry, const Context::RecallView& view,
                             const SelectParams& params, std::span<const LayerQuery> layers,
                             uint64_t max_answer_pages);

struct SelectThreads {
  base::Executor* executor = nullptr;  // null: the caller's thread alone
  uint32_t threads = 1;                // the caller's included
};

// Of checked requests only. objects: of the context; read when params ask for a second stage.
std::vector<LayerSelection> SelectFrom(const ContextOptions& options,
                                       const Context::RecallView& view, const SelectParams& params,
                                       std::span<const LayerQuery> layers,
                                       const ObjectSource& objects, const SelectThreads& threads,
                                       SelectTimings* timings);

}  // namespace varve::recall
