// One sequence: its tokens, its pages by layer and KV head, and what is saved of them.
//
// Appends cut tokens into pages, build digests and hand sealed blocks to the saver. Which pages a
// query needs and where they come from is the recaller's work on the state kept here.
//
// Threads: one call at a time, enforced by SequenceUse; Info may be read at any time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gpu_worker/digest_table.h"
#include "gpu_worker/hot_set.h"
#include "gpu_worker/low_rank_keys.h"
#include "gpu_worker/page_pool.h"
#include "gpu_worker/rope_positions.h"
#include "gpu_worker/saver.h"
#include "gpu_worker/sequence_memory.h"
#include "gpu_worker/step_total.h"
#include "gpu_worker/worker.h"
#include "gpu_worker/worker_metrics.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"

namespace varve::worker {

class Speculation;

// What all sequences of a worker share; everything outlives them.
struct Services {
  WorkerOptions options;
  client::Client* client = nullptr;
  PagePool* pool = nullptr;
  Saver* saver = nullptr;
  WorkerMetrics* metrics = nullptr;
  base::Executor* prefetcher = nullptr;  // threads that wait for prefetches
  base::Executor* fitter = nullptr;      // threads that make subspaces
  uint32_t fit_threads = 1;              // with the caller
  page::SymmetricSolver solver;          // of Gram matrices
  std::shared_ptr<RopePositions> rope;   // null where the geometry states no RoPE parameters
};

struct LayerCache {
  LayerCache(page::DigestKind kind, const page::Geometry& geometry)
      : digests(kind, geometry), heads(geometry.num_kv_heads), attended(geometry.num_kv_heads) {}

  uint32_t appended = 0;  // tokens
  // The last token that came with an Attend: `appended` after it, and the checksum of its rows.
  uint32_t step_end = 0;
  uint32_t step_crc = 0;
  DigestTable digests;
  std::vector<HotSet> heads;
  std::vector<BlockState> blocks;  // of the sealed blocks
  // By head: candidates that the last Attend used, ascending.
  std::vector<std::vector<uint32_t>> attended;
  bool has_attended = false;
  std::vector<std::vector<bool>> lost;  // by head and page: exists nowhere; empty: none
  bool IsLost(uint32_t head, uint32_t page) const {
    return !lost.empty() && page < lost[head].size() && lost[head][page];
  }
  uint32_t next_eviction = 0;  // under pool pressure, prefill pages leave in this order
  SequenceMemory memory;
  // What its pages were counted at: changes of the hot sets, and candidates.
  uint64_t counted_changes = UINT64_MAX;
  uint32_t counted_candidates = 0;
};

class Sequence {
 public:
  static absl::StatusOr<std::shared_ptr<Sequence>> Open(const Services* services, SequenceId id,
                                                        const SequenceOptions& options);
  ~Sequence();

  absl::Status Extend(absl::Span<const int32_t> tokens);
  absl::Status Append(uint32_t layer, const void* k, const void* v, uint32_t tokens);
  absl::Status FinishPrefill();
  // Gives every slot back and drops or parks the context.
  absl::Status Close();

  // FAILED_PRECONDITION unless the prompt is finished and the layer has every announced token, or
  // lacks only the one that comes with the item. INVALID_ARGUMENT for its values.
  absl::Status CheckAttend(uint32_t layer, const AttendItem& item) const;
  // Appends the item's token, unless an earlier attempt has done so.
  absl::Status AppendStep(uint32_t layer, const AttendItem& item);
  // Learns what the store has acknowledged since.
  void ApplySaves();
  // Submits again what the store did not take, when that is due. Never waits.
  void RetrySaves();

  // The session with the store is the one in which this sequence last saw its context.
  bool KnowsStore() const { return session_ != 0 && services_->client->session() == session_; }
  // There is a session, and it is another one.
  bool StoreChanged() const {
    const uint64_t now = services_->client->session();
    return now != 0 && now != session_;
  }
  // Finds the context in the store, after which KnowsStore. A store that came back without it, or
  // without part of it, is given it again: see the top of sequence_rebuild.cc. UNAVAILABLE when
  // there is no store; FAILED_PRECONDITION when the context is another's now.
  absl::Status MeetStore();
  bool has_lost() const { return stats_.lost_pages > 0; }

  SequenceId id() const { return id_; }
  const Policy& policy() const { return policy_; }
  const std::string& context_id() const { return log_->context_id(); }
  SaveLog& log() { return *log_; }
  LayerCache& layer(uint32_t l) { return layers_[l]; }
  const LayerCache& layer(uint32_t l) const { return layers_[l]; }
  const std::string& block_hash(uint32_t block) const { return hashes_[block]; }
  uint32_t budget_pages() const { return budget_; }
  // Of an adaptive budget, for so many candidate pages; of a fixed one floor and ceiling are it.
  page::AdaptiveLimits Limits(uint32_t candidates) const;
  // Of adaptive budgets: what all KV heads of a layer may select in this step. What they did select
  // follows.
  uint64_t TotalFor(uint32_t layer) {
    return step_total_.For(layer, tokens_, uint64_t{geometry_.num_kv_heads} * budget_);
  }
  void CountSelected(uint64_t pages) { step_total_.Select(pages); }
  // Pages among which the policy chooses: [0, CandidatePages).
  uint32_t CandidatePages(uint32_t layer) const;
  // Pages in use, the open one included.
  uint32_t TotalPages(uint32_t layer) const;
  // Valid tokens of a page.
  uint32_t PageTokens(uint32_t layer, uint32_t page) const;
  // Candidate pages that may be resident at once, for a selection of so many pages. Before the
  // prompt is finished: if these were all of it.
  uint32_t HotCapacity(uint32_t candidates, uint32_t selected) const;

  // For how long to wait for the store without anything moving.
  absl::Duration Patience() const;
  // Waits until saves move; RESOURCE_EXHAUSTED naming needed and available pages when none is under
  // way.
  absl::Status WaitForSaves(uint32_t needed_pages);
  // Asks the store something when slots rest until it answers.
  void SeekAnswer();
  absl::Status PoolExhausted(uint32_t needed_pages) const;
  // Waits until the store has digests of so many blocks of the layer, or cannot get them.
  absl::Status WaitForDigests(uint32_t layer, uint32_t blocks);
  // Takes candidate pages that the policy can spare out of the pool, at least `needed` slots if
  // possible.
  bool Spare(uint32_t needed);

  // ---- low-rank keys (sequence_low_rank.cc)
  // Of a page, whether its keys are those that were appended, and have to be fetched. Of all pages
  // under other policies.
  bool HasExactKeys(uint32_t layer, uint32_t head, uint32_t page) const;
  // Pages [first, second) have no exact keys, but for the outliers.
  std::pair<uint32_t, uint32_t> LowRankPages(uint32_t layer) const;
  // Writes the keys of pages whose values are there already, unless they are exact. Threads may do
  // so for different KV heads, each with its own scratch.
  void RebuildKeys(uint32_t layer, uint32_t head, std::span<const PageKeys> pages,
                   RebuildScratch& scratch) const;
  // Pages that are attended to always, with exact keys; ascending.
  std::span<const uint32_t> Outliers(uint32_t layer, uint32_t head) const;
  // Pages that every selection among so many has: by position, and outliers; ascending. Answers how
  // many of them are beside the budget.
  uint32_t PinnedPages(uint32_t layer, uint32_t head, uint32_t candidates,
                       std::vector<uint32_t>& pinned) const;
  // Keys of pages that have left the window become low-rank, as far as the store has them; of so
  // many pages at most.
  static constexpr uint32_t kPagesPerStep = 64;
  void AgeKeys(uint32_t layer, uint32_t most = kPagesPerStep);

  // Appends one row per KV head: the pages of the last Attend in this layer.
  absl::Status ExportPages(uint32_t layer, PageTable& table) const;

  // Null without a policy or a call that asks for it.
  Speculation* speculation() { return speculation_.get(); }
  // From here on there is one, if only to be warmed.
  void MaySpeculate();

  SequenceStats& stats() { return stats_; }
  // Makes the numbers of now visible to Info.
  void Publish();
  SequenceInfo Info() const;

 private:
  friend class SequenceUse;
  Sequence(const Services* services, SequenceId id, const SequenceOptions& options);

  absl::Status OpenContext(const SequenceOptions& options);
  absl::Status Resume(const SequenceOptions& options, const std::string& context_id);
  absl::Status LoadContext(const std::string& context_id);
  absl::Status LoadBlocks(const client::ContextInfo& info);
  // What is hot, for who resumes the context.
  std::vector<client::HotPages> HotPages();
  // Pages and digests of the context fit this worker's.
  bool HasShapeOf(const client::ContextInfo& info) const;
  bool BringsToken(const LayerCache& layer, const AttendItem& item) const;
  uint32_t TokenCrc(const AttendItem& item) const;
  absl::Status CheckAppend(uint32_t layer, const void* k, const void* v, uint32_t tokens) const;
  absl::Status OpenPage(LayerCache& layer);
  void WriteTokens(LayerCache& layer, const std::byte* k, const std::byte* v, uint32_t count);
  void SealPage(uint32_t layer_index);
  std::vector<const std::byte*> ExactKeysOf(uint32_t layer, uint32_t page) const;
  void AddSealed(uint32_t layer, uint32_t page);
  template <typename Use>
  absl::Status ForEachPage(uint32_t layer, uint32_t first, uint32_t end, const Use& use);
  absl::Status FitLowRank();
  void AgeAllKeys();
  template <typename Fn>
  void ShareLayers(const Fn& fn);
  absl::Status FitLayer(uint32_t layer, uint32_t outliers);
  void NoteSubspace(const LowRankKeys& keys, absl::Duration took, prometheus::Counter& cause) const;
  void RefreshSubspace(uint32_t layer);
  void CountLayer(uint32_t layer);
  void CountMemory();
  void SetMemory(const SequenceMemory& now);
  void SubmitSealed(uint32_t layer_index);
  // Unsaved blocks of the layer, at most `most`; answers how many.
  size_t Resubmit(uint32_t layer_index, size_t most = SIZE_MAX);
  void SendRest();
  absl::Status Rebuild();
  absl::StatusOr<client::ContextInfo> TakeOver();
  absl::Status FindSaved(uint32_t layer_index);
  void MarkGone(LayerCache& layer, uint32_t block);
  void SendDigestsAgain(uint32_t layer_index);
  absl::Status SaveAll();
  void ReduceToPolicy();
  bool SparePrefill(uint32_t needed);
  uint32_t EvictPage(LayerCache& layer, uint32_t page);
  uint32_t SpareEnd(const LayerCache& layer) const;

  const Services* const services_;
  const page::Geometry geometry_;
  const SequenceId id_;
  const Policy policy_;
  bool drop_on_close_ = false;
  ContextsInUse::Name name_;
  std::shared_ptr<SaveLog> log_;
  uint64_t session_ = 0;       // in which the context was seen last; 0: not since
  bool rebuilding_ = false;    // a rebuild was begun and not finished
  uint64_t lost_counted_ = 0;  // pages that were lost after the last rebuild that was finished
  bool unsaved_ = false;       // blocks may be kUnsaved
  absl::Time retry_at_;        // of refused saves; meaningful while retry_pause_ is not zero
  absl::Duration retry_pause_;

  uint64_t tokens_ = 0;              // announced
  std::vector<int32_t> tail_;        // announced tokens of the block that is not full
  std::vector<std::string> hashes_;  // of the full blocks
  std::vector<LayerCache> layers_;
  std::vector<std::unique_ptr<LowRankKeys>> low_rank_;  // by layer; empty: not the policy's
  std::atomic<int64_t> age_again_ns_{0};                // after keys could not be read
  bool prefilled_ = false;
  uint64_t prompt_tokens_ = 0;
  uint32_t prompt_pages_ = 0;
  uint32_t budget_ = 0;
  StepTotal step_total_;
  absl::Status broken_;  // an append failed half-way: only Close is left; or closed
  bool closed_ = false;
  std::vector<SaveResult> saves_;  // scratch
  std::vector<uint32_t> victims_;  // scratch
  std::vector<Slot> page_slots_;   // scratch, one page of every head
  SequenceStats stats_;
  SequenceMemory memory_;
  std::unique_ptr<Speculation> speculation_;  // uses all of the above

  std::atomic<bool> busy_{false};
  mutable base::Mutex info_mutex_;
  SequenceInfo info_ ABSL_GUARDED_BY(info_mutex_);
};

// Holds a sequence for one call. Empty when another call holds it.
class SequenceUse {
 public:
  explicit SequenceUse(std::shared_ptr<Sequence> sequence);
  ~SequenceUse();
  SequenceUse(SequenceUse&& other) noexcept = default;
  SequenceUse& operator=(SequenceUse&&) = delete;

  // FAILED_PRECONDITION when another call holds the sequence.
  absl::Status status() const;
  Sequence* operator->() const { return sequence_.get(); }
  Sequence& operator*() const { return *sequence_; }

 private:
  struct Release {
    void operator()(Sequence* sequence) const;
  };
  std::shared_ptr<Sequence> sequence_;
  std::unique_ptr<Sequence, Release> held_;
};

}  // namespace varve::worker
