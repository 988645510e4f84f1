// The worker: the KV cache as an inference engine sees it. Linked into the engine, or behind the
// sidecar's socket.
//
// Per sequence and layer the engine appends keys and values (prefill in one or many chunks, then a
// token a step) and asks for decode attention. The worker cuts the tokens into pages, keeps a
// digest of every full page, saves full pages to the store, keeps a hot set per (sequence, layer,
// KV head) within the policy's budget, and recalls what a query needs. A page that could not be had
// fails the step; it is never skipped. One exception: when the store comes back empty (it was
// restarted), a sequence opens its context anew and saves again what is resident; pages that were
// in the store alone are lost, counted (SequenceStats::lost_pages, varve_worker_lost_pages_total)
// and left out from then on.
//
//   Open -> [Extend -> Append x layers]* -> FinishPrefill -> (Warm x layers) -> [Extend(1 token) ->
//   Attend x layers, each with the token's key and value]* -> Close
// Several turns: Extend and Append may follow at any time; FinishPrefill is called once, after the
// first prompt.
//
// Threads: all methods may be called from any thread; calls for one sequence must not overlap
// (FAILED_PRECONDITION). Tensors are contiguous; keys and values in the geometry's dtype, queries
// and outputs fp32. The worker copies what it is given before a call returns. Errors:
// INVALID_ARGUMENT shape or value (NaN keys are refused, naming the token and head); NOT_FOUND no
// such sequence; FAILED_PRECONDITION calls out of order; RESOURCE_EXHAUSTED pool full; UNAVAILABLE
// / DEADLINE_EXCEEDED / DATA_LOSS the store could not give a needed page.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "client/client.h"
#include "gpu_worker/contexts_in_use.h"
#include "gpu_worker/eigensolver.h"
#include "gpu_worker/policy.h"
#include "gpu_worker/sequence_memory.h"
#include "kvstore/base/metrics.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/geometry.h"

namespace varve::worker {

inline constexpr uint32_t kMaxAttendThreads = 256;

enum class RecallPath { kWorker, kStore };  // who scores

struct WorkerOptions {
  page::Geometry geometry;
  uint64_t pool_bytes = 256ull << 20;
  // The client's key_namespace: the root of the block hashes.
  std::string key_namespace = "default";
  page::DigestKind digest_kind = page::DigestKind::kMinMax;
  RecallPath recall_path = RecallPath::kWorker;
  // Bounds each Attend, whatever it waits for; each wait for saved pages in which nothing moves;
  // and the closing of all sequences that are open when the worker is destroyed.
  absl::Duration step_deadline = absl::Seconds(10);
  // The client's: for so long the store may write into slots that a failed step gave up, and they
  // are not used again before.
  absl::Duration transfer_deadline = absl::Seconds(10);
  // Threads that share the KV heads of one Attend, the caller's included; 0: half of this process's
  // CPUs, at most 16. Results do not depend on it. At most kMaxAttendThreads.
  uint32_t attend_threads = 0;
  // Memory for the page pool when others must be able to map it (the sidecar's shared memory);
  // empty: the client's Allocate.
  std::span<std::byte> pool_memory;
  // A prefetch for the next step (Policy::tau) asks for so many layers at once; 0: a quarter of
  // them. More of them are fewer requests, each begun later in the step.
  uint32_t prefetch_layers = 0;
  // For so long a layer waits for its prefetch before it fetches on demand.
  absl::Duration prefetch_patience = absl::Milliseconds(20);
  // One of this many Attend calls also measures the attention mass kept, against all pages' exact
  // mass (it recalls every page: for evaluation). 0: never.
  uint32_t mass_sample_every = 0;
  base::Metrics* metrics = nullptr;  // may be null
  // Makes the subspaces of low-rank keys. Workers of one process should share it. Null: one that
  // takes a CUDA device when there is one.
  std::shared_ptr<Eigensolver> eigensolver;
  // Not null. All workers of one client share it.
  std::shared_ptr<ContextsInUse> contexts = std::make_shared<ContextsInUse>();
};

using SequenceId = uint64_t;

struct SequenceOptions {
  Policy policy;
  // The store's context; empty: the worker makes a unique one, dropped on Close.
  std::string context_id;
  // Resume this stored context: its blocks, as far as all layers have their digests, are the
  // sequence's first tokens, attached by digests alone. In place when context_id is the same, else
  // in a fork. A policy that recalls fetches ahead what was hot when the context was closed last,
  // so that the first step does not find the hot sets cold. FAILED_PRECONDITION: another sequence
  // of this client works on context_id.
  std::string resume_context_id;
};

struct SequenceStats {  // since Open, over all layers and KV heads
  uint64_t steps = 0;
  uint64_t selected_pages = 0;
  uint64_t hot_pages = 0;
  uint64_t recalled_pages = 0;
  uint64_t recalled_bytes = 0;
  uint64_t evicted_pages = 0;
  uint64_t saved_objects = 0;
  // Pages that exist nowhere any more because the store came back without them: attention leaves
  // them out.
  uint64_t lost_pages = 0;
  absl::Duration score, select, recall, attend;
  // Of speculation: pages that came ahead; of them, those attended to, and those that left before
  // (recalled_pages are those fetched on demand).
  uint64_t prefetched_pages = 0;
  uint64_t prefetch_used_pages = 0;
  uint64_t prefetch_wasted_pages = 0;
  // Heads that kept the selection of the step before; that were corrected because their queries had
  // turned, or because their prefetch had failed or was late.
  uint64_t kept_heads = 0;
  uint64_t corrected_heads = 0;
  uint64_t late_heads = 0;
  absl::Duration prefetch_wait;
  // Shares of the full attention mass that the attended pages kept, per KV head the mean over its
  // query heads, summed: as sampled; as proven at least, of every step where a bound is known; and
  // as the second stage estimates it.
  double mass_sum = 0;
  uint64_t mass_samples = 0;
  double mass_bound_sum = 0;
  uint64_t mass_bound_samples = 0;
  double mass_estimate_sum = 0;
  uint64_t mass_estimate_samples = 0;
};

struct SequenceInfo {
  SequenceId id = 0;
  std::string context_id;
  uint64_t tokens = 0;
  uint32_t blocks = 0;        // sealed in every layer
  uint32_t budget_pages = 0;  // 0 before FinishPrefill
  SequenceStats stats;
  SequenceMemory memory;
  // Policy shadowkv, by layer: the share of the keys' energy that the latest subspace has dropped
  // of what it was made from. Empty before the prompt is finished.
  std::vector<double> discarded_energy;
};

struct AttendItem {
  SequenceId sequence = 0;
  const float* q = nullptr;  // [num_query_heads][head_dim], post-RoPE
  float* out = nullptr;      // same shape
  float* lse = nullptr;      // [num_query_heads]; may be null
  // The announced token that this layer lacks: [num_kv_heads][head_dim] in the geometry's dtype,
  // appended before the item attends; both null when Append was called. Nothing is appended when
  // any item of the batch is refused. A call may be repeated as it was: a token that the layer has
  // from an earlier attempt is not appended again.
  const void* k = nullptr;
  const void* v = nullptr;
};

// FlashInfer's form, one row per (sequence, KV head): pages of row r are indices[indptr[r] ..
// indptr[r+1]), slot numbers of the page pool; last_page_len[r] tokens of the row's last page are
// valid.
struct PageTable {
  std::vector<int32_t> indptr;
  std::vector<int32_t> indices;
  std::vector<int32_t> last_page_len;
};

struct WorkerStatus {
  uint64_t pool_pages = 0;
  uint64_t free_pages = 0;
  uint32_t sequences = 0;
};

class Worker {
 public:
  // client: connected; outlives the worker. INVALID_ARGUMENT for a bad geometry or a pool of less
  // than 64 pages.
  static absl::StatusOr<std::unique_ptr<Worker>> Create(const WorkerOptions& options,
                                                        client::Client* client);
  virtual ~Worker() = default;

  // INVALID_ARGUMENT: a policy with a second stage where this worker scores.
  virtual absl::StatusOr<SequenceId> Open(const SequenceOptions& options) = 0;
  virtual absl::Status Close(SequenceId sequence) = 0;

  // Announces the next tokens; their ids name the blocks.
  virtual absl::Status Extend(SequenceId sequence, absl::Span<const int32_t> tokens) = 0;
  // The announced tokens' keys (post-RoPE) and values of one layer:
  // [tokens][num_kv_heads][head_dim]. May be split over several calls.
  virtual absl::Status Append(SequenceId sequence, uint32_t layer, const void* k, const void* v,
                              uint32_t tokens) = 0;
  // Fixes the budget from the prompt's length and lets the policy evict. Returns when everything
  // evictable is saved. Asked again before more tokens it does nothing more, for who did not hear
  // the answer; after DEADLINE_EXCEEDED it goes on where it was.
  virtual absl::Status FinishPrefill(SequenceId sequence) = 0;

  // Decode attention of one layer for a batch of sequences of different lengths: over the selected
  // pages and all tokens newer than the last sealed page.
  virtual absl::Status Attend(uint32_t layer, absl::Span<const AttendItem> items) = 0;

  // Warm start, after FinishPrefill and before the first Attend of a layer: what the queries of the
  // prompt's last token select is fetched ahead, so that the first step does not find the hot sets
  // cold; with Policy::tau it may keep that selection. Of the items only sequence and q count.
  // Returns without waiting for the pages; does nothing where the policy does not recall.
  virtual absl::Status Warm(uint32_t layer, absl::Span<const AttendItem> items) = 0;

  // The pages that the last Attend of each sequence used in this layer.
  virtual absl::StatusOr<PageTable> ExportPageTable(
      uint32_t layer, absl::Span<const SequenceId> sequences) const = 0;
  virtual absl::StatusOr<SequenceInfo> Info(SequenceId sequence) const = 0;
  virtual WorkerStatus Status() const = 0;
  virtual const WorkerOptions& options() const = 0;
};

}  // namespace varve::worker
