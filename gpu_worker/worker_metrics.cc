#include "gpu_worker/worker_metrics.h"

namespace varve::worker {
namespace {

prometheus::Histogram& Stage(base::Metrics* m, const char* stage) {
  return m->Histogram("varve_recall_stage_duration_seconds",
                      "Stages of one layer's recall for one batch", {{"stage", stage}},
                      base::LatencyBuckets());
}

prometheus::Histogram& Recall(base::Metrics* m, const char* path) {
  return m->Histogram("varve_recall_duration_seconds",
                      "Scoring, selecting and fetching for one layer and batch", {{"path", path}},
                      base::LatencyBuckets());
}

prometheus::Counter& Pages(base::Metrics* m, const char* outcome) {
  return m->Counter("varve_recall_pages_total", "Selected pages, by how they were had",
                    {{"outcome", outcome}});
}

prometheus::Counter& Prefetched(base::Metrics* m, const char* outcome) {
  return m->Counter("varve_worker_prefetched_pages_total",
                    "Pages fetched ahead of their step, by what became of them",
                    {{"outcome", outcome}});
}

prometheus::Counter& Heads(base::Metrics* m, const char* outcome) {
  return m->Counter("varve_worker_speculated_heads_total",
                    "Layers and KV heads with a selection of the step before, by what was done",
                    {{"outcome", outcome}});
}

prometheus::Counter& Saves(base::Metrics* m, const char* result) {
  return m->Counter("varve_worker_saved_objects_total", "Objects sent to the store, by its answer",
                    {{"result", result}});
}

prometheus::Histogram& Mass(base::Metrics* m, const char* kind) {
  return m->Histogram("varve_recall_attention_mass_ratio",
                      "Share of the full attention mass on the attended pages: proven at least, "
                      "estimated, or as sampled",
                      {{"kind", kind}}, base::RatioBuckets());
}

std::array<prometheus::Gauge*, kMemoryKinds.size()> Memory(base::Metrics* m) {
  std::array<prometheus::Gauge*, kMemoryKinds.size()> gauges;
  for (size_t i = 0; i < gauges.size(); ++i) {
    gauges[i] = &m->Gauge("varve_worker_memory_bytes", "What open sequences hold, by kind",
                          {{"kind", kMemoryKinds[i].name}});
  }
  return gauges;
}

prometheus::Counter& Subspaces(base::Metrics* m, const char* cause) {
  return m->Counter("varve_worker_subspaces_total",
                    "Subspaces of low-rank keys that were made, by what called for them",
                    {{"cause", cause}});
}

}  // namespace

WorkerMetrics::WorkerMetrics(base::Metrics* metrics)
    : own_(metrics == nullptr ? std::make_unique<base::Metrics>() : nullptr),
      registry_(metrics == nullptr ? own_.get() : metrics),
      score(Stage(registry_, "score")),
      select(Stage(registry_, "select")),
      locate(Stage(registry_, "locate")),
      transfer(Stage(registry_, "transfer")),
      install(Stage(registry_, "install")),
      rebuild(Stage(registry_, "rebuild")),
      recall_worker(Recall(registry_, "worker")),
      recall_store(Recall(registry_, "store")),
      attend(registry_->Histogram("varve_worker_attend_duration_seconds",
                                  "Decode attention of one layer and batch, recall included", {},
                                  base::LatencyBuckets())),
      attention(registry_->Histogram("varve_worker_attention_duration_seconds",
                                     "Attention over the chosen pages, of one layer and batch", {},
                                     base::LatencyBuckets())),
      pages_hot(Pages(registry_, "hot")),
      pages_fetched(Pages(registry_, "fetched")),
      pages_evicted(registry_->Counter("varve_worker_evicted_pages_total",
                                       "Pages that left the hot sets; the store has them")),
      pages_lost(registry_->Counter("varve_worker_lost_pages_total",
                                    "Pages that the store came back without and nobody else has")),
      contexts_rebuilt(registry_->Counter("varve_worker_rebuilt_contexts_total",
                                          "Contexts opened again in a store that came back "
                                          "without them")),
      prefetch_used(Prefetched(registry_, "used")),
      prefetch_wasted(Prefetched(registry_, "wasted")),
      heads_kept(Heads(registry_, "kept")),
      heads_corrected(Heads(registry_, "corrected")),
      heads_late(Heads(registry_, "late")),
      prefetch(registry_->Histogram("varve_worker_prefetch_duration_seconds",
                                    "Requests for pages of the next step, answered or failed", {},
                                    base::LatencyBuckets())),
      prefetch_wait(registry_->Histogram("varve_worker_prefetch_wait_duration_seconds",
                                         "What one layer waited for its prefetch", {},
                                         base::LatencyBuckets())),
      mass(Mass(registry_, "true")),
      mass_bound(Mass(registry_, "bound")),
      mass_estimate(Mass(registry_, "estimate")),
      digest_lag(registry_->Histogram("varve_digest_stream_lag_seconds",
                                      "From a page's sealing to the store's acknowledgement of its "
                                      "digest",
                                      {}, base::LatencyBuckets())),
      saves_stored(Saves(registry_, "stored")),
      saves_exists(Saves(registry_, "exists")),
      saves_failed(Saves(registry_, "failed")),
      pool_pages(registry_->Gauge("varve_worker_pool_pages", "Slots of the page pool")),
      pool_free_pages(registry_->Gauge("varve_worker_pool_free_pages",
                                       "Slots of the page pool that hold no page")),
      sequences(registry_->Gauge("varve_worker_sequences", "Open sequences")),
      memory(Memory(registry_)),
      subspaces_prompt(Subspaces(registry_, "prompt")),
      subspaces_refresh(Subspaces(registry_, "refresh")),
      fit(registry_->Histogram("varve_worker_subspace_duration_seconds",
                               "Making one layer's subspace of low-rank keys", {},
                               base::LatencyBuckets())),
      discarded_energy(registry_->Histogram(
          "varve_worker_discarded_energy_ratio",
          "Share of the keys' energy that a layer's subspace dropped", {}, base::RatioBuckets())) {}

}  // namespace varve::worker
