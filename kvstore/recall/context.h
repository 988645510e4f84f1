// One context: its blocks, its digests, its epoch and who is attached.
//
// Threads: all methods may be called from any thread. Two locks: change_mutex_ orders whatever
// changes blocks or attachments and is held while the page store takes or gives up holds; mutex_
// guards the published state and is held for copies of references only. Digest rows are copied
// under a lock of their layer alone, so neither a recall nor another layer waits for them. Notes
// are written under mutex_, so that they tell what is published; that does not wait. Order:
// change_mutex_ or a layer's lock, then mutex_.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "kvstore/base/mutex.h"
#include "kvstore/recall/context_table.h"
#include "kvstore/recall/hot_pages.h"
#include "kvstore/recall/kept_notes.h"
#include "kvstore/recall/shared_rows.h"

namespace varve::recall {

// Shared by all contexts of a table.
struct ContextBudgets {
  ByteBudget digests;
  ByteBudget blocks;
};

class Context {
 public:
  // store, budgets and keeper outlive the context.
  Context(store::NamespaceId ns, std::string id, const ContextOptions& options, uint32_t epoch,
          store::PageStore* store, ContextBudgets* budgets, NoteKeeper* keeper);
  ~Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const std::string& id() const { return id_; }
  const ContextOptions& options() const { return options_; }

  // From now on changes are kept. Before others know the context. replaced: notes of one by its
  // name.
  void Keep(ContextNotes replaced);
  // Instead of Keep: takes what was kept before a restart.
  void Restore(RowList blocks, std::vector<RowList> layers, ContextNotes notes);

  // for_attach: with block hashes and hot pages.
  ContextSnapshot Snapshot(bool for_attach) const;
  // A detached context of the first num_blocks blocks (0: all), sharing rows with this one.
  absl::StatusOr<std::shared_ptr<Context>> Fork(const std::string& new_id, uint32_t num_blocks,
                                                uint32_t epoch);

  absl::Status Append(uint32_t first_block, std::span<const std::string> block_hashes);
  absl::Status Truncate(uint32_t num_blocks, uint32_t new_epoch);
  absl::Status Attach(uint64_t session);
  // Nothing happens when the session is not attached. hot: kept for who attaches next, instead of
  // what there was; empty: that stays. INVALID_ARGUMENT, with nothing changed, for pages that the
  // context has not.
  absl::Status Park(uint64_t session, std::vector<HotPages> hot);
  bool IsAttached(uint64_t session) const;
  bool IsParked() const;
  // The end: gives up all holds and notes; every later change is refused.
  void Retire();
  // The same for a context that nobody is attached to, but for the notes, which a Retire after it
  // gives up: false, with nothing changed, when somebody is attached. Waits for nobody.
  bool RetireIfParked();

  // Something was gathered for the journal; and it is written.
  bool has_gathered() const { return has_gathered_.load(std::memory_order_relaxed); }
  void WriteNotes();
  // Once more the note that says what there is, when it was lost.
  void NoteAgain();
  // Gives up all notes: the context ends with the process. False: there were none.
  bool Forget();

  // When somebody last asked the table for the context.
  absl::Time last_use() const { return absl::FromUnixNanos(last_use_ns_.load()); }
  void Touch(absl::Time now) { last_use_ns_.store(absl::ToUnixNanos(now)); }

  absl::StatusOr<uint32_t> AppendDigests(uint32_t epoch, uint32_t layer, uint32_t first_block,
                                         uint32_t num_blocks, std::string_view rows);
  absl::StatusOr<std::string> ReadDigests(uint32_t epoch, uint32_t layer, uint32_t first_block,
                                          uint32_t num_blocks) const;

  // What a recall works on. FAILED_PRECONDITION when the epoch is not the context's.
  struct RecallView {
    RowList blocks;
    std::vector<RowList> layers;  // those asked for
  };
  absl::StatusOr<RecallView> View(uint32_t epoch, std::span<const LayerQuery> layers) const;
  absl::Status CheckEpoch(uint32_t epoch) const;

 private:
  struct State {
    State(const ContextOptions& options, NoteKeeper* keeper);
    RowList blocks;
    std::vector<RowList> layers;
    uint32_t epoch = 0;
    absl::flat_hash_set<uint64_t> attached;
    bool retired = false;
    std::shared_ptr<const KeptHotPages> hot;  // null: none
    uint32_t hot_end = 0;                     // of them, those below count
    ContextNotes notes;
  };

  absl::Status CheckEpochLocked(uint32_t epoch) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckDigestRows(uint32_t layer, uint32_t num_blocks, std::string_view rows) const;
  absl::Status CheckAppend(uint32_t first_block, std::span<const std::string> block_hashes) const;
  absl::Status NotFound() const;
  void AddNoteLocked(uint32_t layer, uint32_t first, uint32_t count, std::string rows)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const store::NamespaceId ns_;
  const std::string id_;
  const ContextOptions options_;
  store::PageStore* const store_;
  ContextBudgets* const budgets_;
  NoteKeeper* const keeper_;
  const std::string note_label_;  // empty when nothing is kept

  std::atomic<int64_t> last_use_ns_{0};
  std::atomic<bool> has_gathered_{false};
  base::Mutex change_mutex_;
  const std::unique_ptr<base::Mutex[]> layer_mutexes_;
  mutable base::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_);
};

RowFormat HashFormat();
RowFormat DigestFormat(const ContextOptions& options);

// Block hashes as rows of a RowList.
std::vector<std::string> DecodeHashes(const RowList& blocks, uint32_t first, uint32_t count);

}  // namespace varve::recall
