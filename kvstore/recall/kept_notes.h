// The notes of contexts while the process lives: who needs them, and which are to be erased.
//
// What was written under one context note is a run. Contexts share runs as they share rows, each up
// to a note and a number of blocks; a note that nobody's share covers any more is erased. Forking
// and dropping a fork cost little, however many notes a run has. When the process ends nothing is
// erased.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "kvstore/base/mutex.h"
#include "kvstore/recall/context_note.h"
#include "kvstore/store/journal.h"

namespace varve::recall {

// The journal of a table. Thread-safe; outlives all that follows.
class NoteKeeper {
 public:
  // journal may be null: nothing is kept then. It outlives the keeper otherwise.
  explicit NoteKeeper(store::Journal* journal)
      : journal_(journal), gate_(std::make_shared<Gate>()) {}

  bool keeps() const { return journal_ != nullptr; }
  // ---- REQUIRES: keeps()
  // As Journal::Write; `written` is not called once the keeper is closed.
  store::NoteId Write(store::Journal::Note note);
  // The note is erased by the next Sweep: many at once cost one call.
  void Discard(store::NoteId id);
  void Sweep();
  store::Journal::Room room() const { return journal_->GetRoom(); }
  // From now on nothing is erased, and nobody is told of what is written.
  void Close();

 private:
  // What a note that is written tells has come to an end before the keeper does.
  struct Gate {
    base::Mutex mutex;
    base::CondVar changed;
    bool closed ABSL_GUARDED_BY(mutex) = false;
    uint32_t inside ABSL_GUARDED_BY(mutex) = 0;
  };

  store::Journal* const journal_;
  const std::shared_ptr<Gate> gate_;
  base::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<store::NoteId> discarded_ ABSL_GUARDED_BY(mutex_);
};

// A note that is discarded with its owner. May be empty.
class OwnedNote {
 public:
  OwnedNote() = default;
  // One that the journal has.
  OwnedNote(NoteKeeper* keeper, store::NoteId id) : keeper_(keeper), id_(id) {}
  // Writes one. What it replaces owns notes, and is destroyed when this one is written; when it is
  // lost, together with it: at no moment is neither on disk.
  OwnedNote(NoteKeeper* keeper, store::Journal::Note note, std::shared_ptr<void> replaced);
  ~OwnedNote();
  OwnedNote(OwnedNote&& other) noexcept { *this = std::move(other); }
  OwnedNote& operator=(OwnedNote&& other) noexcept {
    std::swap(keeper_, other.keeper_);
    std::swap(id_, other.id_);
    std::swap(writing_, other.writing_);
    return *this;
  }
  store::NoteId id() const { return id_; }
  // It was dropped, or not written.
  bool lost() const;
  // When it is lost, what it should have replaced, which this no longer owns: for another one.
  std::optional<std::shared_ptr<void>> TakeReplacedIfLost();

 private:
  struct Writing {
    void Over(const absl::Status& status);
    base::Mutex mutex;
    bool lost ABSL_GUARDED_BY(mutex) = false;
    std::shared_ptr<void> replaced ABSL_GUARDED_BY(mutex);
  };

  NoteKeeper* keeper_ = nullptr;
  store::NoteId id_ = 0;
  std::shared_ptr<Writing> writing_;  // null for one that was found
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
//
// Rows are gathered, so that a stream of single blocks does not take a note for each. What was
// dropped is a hole: rows from there on are of no use, and are not written.
class ContextNotes {
 public:
  // Nothing is written before Begin.
  explicit ContextNotes(NoteKeeper* keeper) : keeper_(keeper) {}
  // What was found in the journal. own: the run under the context's own note.
  ContextNotes(NoteKeeper* keeper, OwnedNote note, std::shared_ptr<NoteRun> own,
               std::vector<RunShare> inherited);
  ContextNotes(ContextNotes&&) = default;
  ContextNotes& operator=(ContextNotes&&) = default;

  // Writes the context's own note, in the place of others.
  void Begin(const std::string& label, ContextNotes replaced);
  // Rows that the context has from now on. Nothing is written before Begin.
  void Add(const RowsSection& section, std::string rows);
  // Writes what was gathered.
  void Write();
  // What the first `blocks` blocks need, for another context or this one after a truncate; not
  // begun. Writes what was gathered.
  ContextNotes Fork(uint32_t blocks);
  // The same for all blocks of a context whose notes are given up: nothing, for now.
  static ContextNotes None(NoteKeeper* keeper);

  bool has_gathered() const { return !gathered_.empty(); }
  bool has_note() const { return note_.id() != 0; }
  // The context's own note is not there, and would be of use.
  bool lacks_note() const { return begun_ && hole_ > 0 && note_.lost(); }

 private:
  struct Gathered {
    RowsSection section;
    std::string rows;
  };

  NoteKeeper* keeper_;
  bool begun_ = false;
  uint32_t hole_ = UINT32_MAX;                    // the first block that lacks rows
  absl::btree_map<uint32_t, Gathered> gathered_;  // by layer
  size_t gathered_bytes_ = 0;
  std::vector<RunShare> inherited_;  // ascending `under`
  RunShare own_;
  // The last member: discarded before the others, so that what is left half-erased is no context.
  OwnedNote note_;
};

}  // namespace varve::recall
