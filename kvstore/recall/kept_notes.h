// The notes of contexts while the process lives: who needs them, and which are to be erased.
//
// What was written under one context note is a run. Contexts share runs as they share rows, each up
// to a note and a number of blocks; a note that nobody's share covers any more is erased. Forking
// and dropping a fork cost little, however many notes a run has. When the process ends nothing is
// erased.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/base/mutex.h"
#include "kvstore/recall/context_note.h"
#include "kvstore/store/journal.h"

namespace varve::recall {

// The journal of a table. Thread-safe; outlives all that follows.
class NoteKeeper {
 public:
  // journal may be null: nothing is kept then. It outlives the keeper otherwise.
  explicit NoteKeeper(store::Journal* journal) : journal_(journal) {}

  bool keeps() const { return journal_ != nullptr; }
  // REQUIRES: keeps().
  store::NoteId Write(std::string label, std::string payload);
  // The note is erased by the next Sweep: many at once cost one call.
  void Discard(store::NoteId id);
  void Sweep();
  // From now on nothing is erased.
  void Close();

 private:
  store::Journal* const journal_;
  base::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<store::NoteId> discarded_ ABSL_GUARDED_BY(mutex_);
};

// A note that is discarded with its owner. May be empty.
class OwnedNote {
 public:
  OwnedNote() = default;
  OwnedNote(NoteKeeper* keeper, store::NoteId id) : keeper_(keeper), id_(id) {}
  ~OwnedNote() {
    if (id_ != 0) keeper_->Discard(id_);
  }
  OwnedNote(OwnedNote&& other) noexcept { *this = std::move(other); }
  OwnedNote& operator=(OwnedNote&& other) noexcept {
    std::swap(keeper_, other.keeper_);
    std::swap(id_, other.id_);
    return *this;
  }
  store::NoteId id() const { return id_; }

 private:
  NoteKeeper* keeper_ = nullptr;
  store::NoteId id_ = 0;
};

// Notes of rows under one context note. Thread-safe.
class NoteRun {
 public:
  NoteRun(NoteKeeper* keeper, store::NoteId under) : keeper_(keeper), under_(under), last_(under) {}

  store::NoteId under() const { return under_; }
  // The newest note, or `under` before the first.
  store::NoteId last() const;
  void Add(store::NoteId id, uint32_t first_block);
  // There is a note up to `last` that begins before block `blocks`.
  bool Has(store::NoteId last, uint32_t blocks) const;

 private:
  friend class RunShare;
  struct Note {
    store::NoteId id = 0;
    uint32_t first_block = 0;
  };
  struct Extent {
    store::NoteId last = 0;
    uint32_t blocks = 0;
    bool Covers(const Note& note) const { return note.id <= last && note.first_block < blocks; }
    bool Covers(const Extent& other) const { return other.last <= last && other.blocks <= blocks; }
  };
  void Join(const Extent& extent);
  // Discards what nobody needs any more.
  void Leave(const Extent& extent);

  NoteKeeper* const keeper_;
  const store::NoteId under_;
  mutable base::Mutex mutex_;
  store::NoteId last_ ABSL_GUARDED_BY(mutex_);
  std::vector<Note> notes_ ABSL_GUARDED_BY(mutex_);
  std::vector<Extent> shares_ ABSL_GUARDED_BY(mutex_);
};

// One context's part of a run. May be empty.
class RunShare {
 public:
  RunShare() = default;
  RunShare(std::shared_ptr<NoteRun> run, store::NoteId last, uint32_t blocks);
  ~RunShare();
  RunShare(RunShare&& other) noexcept { *this = std::move(other); }
  RunShare& operator=(RunShare&& other) noexcept {
    std::swap(run_, other.run_);
    std::swap(extent_, other.extent_);
    return *this;
  }

  const std::shared_ptr<NoteRun>& run() const { return run_; }
  Inherited extent() const { return {run_->under(), extent_.last, extent_.blocks}; }

 private:
  std::shared_ptr<NoteRun> run_;
  NoteRun::Extent extent_;
};

// Those of one context, without locks. Destroying it discards them; best outside of locks.
class ContextNotes {
 public:
  // Nothing is written before Begin.
  explicit ContextNotes(NoteKeeper* keeper) : keeper_(keeper) {}
  // What was found in the journal. own: the run under the context's own note.
  ContextNotes(NoteKeeper* keeper, OwnedNote note, std::shared_ptr<NoteRun> own,
               std::vector<RunShare> inherited);

  // Writes the context's own note.
  void Begin(const std::string& label);
  // Rows that the context has from now on. Nothing is written before Begin.
  void Add(uint32_t layer, uint32_t first, uint32_t count, std::string rows);
  // What the first `blocks` blocks need, for another context or this one after a truncate; not
  // begun.
  ContextNotes Fork(uint32_t blocks) const;

 private:
  NoteKeeper* keeper_;
  std::vector<RunShare> inherited_;  // ascending `under`
  RunShare own_;
  // The last member: discarded before the others, so that what is left half-erased is no context.
  OwnedNote note_;
};

}  // namespace varve::recall
