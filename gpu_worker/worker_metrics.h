// The series that a worker feeds (docs/metrics.md). Thread-safe.
#pragma once

#include <array>
#include <memory>

#include "gpu_worker/sequence_memory.h"
#include "kvstore/base/metrics.h"

namespace varve::worker {

struct WorkerMetrics {
  // metrics may be null: then the series live in a registry of their own that nobody reads.
  explicit WorkerMetrics(base::Metrics* metrics);

 private:
  std::unique_ptr<base::Metrics> own_;
  base::Metrics* const registry_;

 public:
  // Stages of one Attend call; locate is inside the transfer when the worker scores, rebuild is
  // what low-rank keys take after install.
  prometheus::Histogram& score;
  prometheus::Histogram& select;
  prometheus::Histogram& locate;
  prometheus::Histogram& transfer;
  prometheus::Histogram& install;
  prometheus::Histogram& rebuild;
  prometheus::Histogram& recall_worker;
  prometheus::Histogram& recall_store;
  prometheus::Histogram& attend;
  prometheus::Histogram& attention;
  prometheus::Counter& pages_hot;
  prometheus::Counter& pages_fetched;
  prometheus::Counter& pages_evicted;
  prometheus::Counter& pages_lost;
  prometheus::Counter& contexts_rebuilt;
  prometheus::Counter& prefetch_used;
  prometheus::Counter& prefetch_wasted;
  prometheus::Counter& heads_kept;
  prometheus::Counter& heads_corrected;
  prometheus::Counter& heads_late;
  prometheus::Histogram& prefetch;
  prometheus::Histogram& prefetch_wait;
  prometheus::Histogram& mass;
  prometheus::Histogram& mass_bound;
  prometheus::Histogram& mass_estimate;
  prometheus::Histogram& digest_lag;
  prometheus::Counter& saves_stored;
  prometheus::Counter& saves_exists;
  prometheus::Counter& saves_failed;
  prometheus::Gauge& pool_pages;
  prometheus::Gauge& pool_free_pages;
  prometheus::Gauge& sequences;
  std::array<prometheus::Gauge*, kMemoryKinds.size()> memory;  // in their order
  prometheus::Counter& subspaces_prompt;
  prometheus::Counter& subspaces_refresh;
  prometheus::Histogram& fit;
  prometheus::Histogram& discarded_energy;
};

}  // namespace varve::worker
