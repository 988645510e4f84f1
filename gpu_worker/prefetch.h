// Pages of the next step, asked for while this step computes: in the prefetch class, on a thread of
// the worker's. Covers several layers of one sequence; the sequences of a batch share a request,
// but where the store selects, as a recall is of one context.
//
// It refers to nothing of the sequence, which may be closed meanwhile; the worker outlives it. The
// slots that pages land in are this object's until a layer is taken. A slot into which the store
// may still write is nobody's until it cannot any more (PagePool::Quarantine).
//
// Threads: all methods from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "gpu_worker/page_pool.h"
#include "gpu_worker/sequence.h"
#include "kvstore/base/mutex.h"

namespace varve::worker {

// What one (layer, KV head) asks for.
struct PrefetchHead {
  bool asked = false;
  std::vector<Slot> slots;      // where pages land
  std::vector<uint32_t> pages;  // by slot; empty: the store selects them
};
struct PrefetchLayer {
  uint32_t layer = 0;
  std::vector<float> queries;       // where the store selects
  std::vector<PrefetchHead> heads;  // one per KV head
};

// What came for one (layer, KV head).
struct PrefetchedHead {
  bool answered = false;  // by the store's selection
  std::vector<uint32_t> selected;
  std::vector<std::pair<uint32_t, float>> scores;  // of pages, by the store
  std::vector<std::pair<uint32_t, Slot>> pages;    // that landed; the slots are the taker's
};

// Of all prefetches of one sequence.
struct PrefetchCounts {
  std::atomic<uint64_t> landed{0};  // pages
  std::atomic<uint64_t> wasted{0};  // of them, never attended to
};

class Prefetch {
 public:
  // query: layers, budgets and residents of the heads that are asked; or items: one for each slot
  // of each head, in order. The other is empty. Slots are filled in here.
  Prefetch(const Services* services, std::shared_ptr<PrefetchCounts> counts,
           std::vector<PrefetchLayer> layers, client::RecallQuery query,
           std::vector<client::GetItem> items);
  ~Prefetch();
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  // Asks for them, all of one worker, on its threads. Up to 4096 pages are asked for together, and
  // all of those have come when the slowest has: one on a disk holds up other sequences'.
  static void Start(std::vector<std::shared_ptr<Prefetch>> prefetches);
  // Until the layer's pages are here, or the request ended; false when that took longer.
  bool Wait(size_t place, absl::Duration patience);
  // What came for layers[place], by KV head; nothing when it failed. REQUIRES: Wait was true.
  std::vector<PrefetchedHead> Take(size_t place);
  // Nobody wants the layer any more: what came, or comes, is wasted.
  void Drop(size_t place);

 private:
  enum class Place : uint8_t { kComing, kHere, kDropped, kGone };

  bool selects() const { return items_.empty(); }
  bool AllDropped() const;
  static void Run(std::span<const std::shared_ptr<Prefetch>> prefetches);
  static void AskGet(std::span<const std::shared_ptr<Prefetch>> prefetches);
  void AskRecall();
  // Takes its part of the answer: one result for each item.
  void LandItems(const absl::StatusOr<std::span<const client::GetResult>>& answer);
  // Takes what came for one layer out of the store's answer.
  void Land(size_t place, std::vector<client::RecallHeadResult> answer);
  void Finish(size_t place, bool may_land_late);
  void FreeLanded(size_t place) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Services* const services_;
  const std::shared_ptr<PrefetchCounts> counts_;
  const absl::Time deadline_;
  // The thread's; of a layer until it is here.
  std::vector<PrefetchLayer> layers_;
  client::RecallQuery query_;
  std::vector<client::GetItem> items_;
  std::vector<std::vector<PrefetchedHead>> results_;  // [layer][KV head]
  std::vector<bool> finished_;                        // by layer: its slots are given back

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  std::vector<Place> places_ ABSL_GUARDED_BY(mutex_);  // by layer
};

}  // namespace varve::worker
