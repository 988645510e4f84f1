// Contexts from the notes of a journal, after a restart.
//
// Nothing depends on the order of the notes: which rows a context has follows from its own note. A
// note that is missing, or does not fit, is a hole at which the rows end. What contexts share is
// there once again. Notes that no context needs are discarded.
//
// A context that the limits of this start have no room for, or that needs a note which cannot be
// read this time, is left as it is: whole, on disk, for another start.
//
// Threads: none; used once, before the table is.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "kvstore/recall/context.h"
#include "kvstore/recall/context_note.h"
#include "kvstore/recall/kept_notes.h"
#include "kvstore/recall/shared_rows.h"

namespace varve::recall {

struct RecoveredContext {
  std::string namespace_name;
  std::string id;
  ContextOptions options;
  RowList blocks;
  std::vector<RowList> layers;
  ContextNotes notes;
  // There are notes of blocks beyond a hole, which must never be taken for those that follow.
  bool cut = false;
};

// What is left on disk: its notes are discarded with this.
struct LeftContext {
  std::string namespace_name;
  std::string id;
  ContextNotes notes;
};

class Recovery {
 public:
  Recovery(NoteKeeper* keeper, ContextBudgets* budgets);

  // The journal's errors; FAILED_PRECONDITION for notes of another version.
  absl::Status Read(store::Journal* journal);
  // Epochs below may have been given.
  uint32_t epochs_end() const { return epochs_end_; }
  struct Found {
    std::vector<RecoveredContext> contexts;
    std::vector<LeftContext> left;
  };
  // The newest contexts that fit, at most max_contexts, newest first. Once.
  Found Take(uint32_t max_contexts);

 private:
  // A note of rows. Some of its sections may be needed, by several contexts.
  struct RowsFrom {
    store::NoteId id = 0;
    store::NoteId under = 0;
    uint32_t first = 0;  // block, of any section
    bool unread = false;
    bool needed = false;
  };
  struct Rows {
    RowsFrom* from = nullptr;
    RowsSection section;
    std::string bytes;
    bool left_out = false;  // there was no memory for them
    // For whom they were found to be digests: another context may read them as another kind.
    std::optional<ContextOptions> sane_for;
    // All rows of a context up to this note's longest use, once that is built.
    uint32_t end = 0;
    store::NoteId before = 0;
    std::optional<RowList> built;
  };
  struct Own {
    ContextNote note;
    OwnedNote kept;
    bool unread = false;  // what it inherits is not known
  };
  // A note's use in one list: its rows from first to end.
  struct Piece {
    Rows* rows = nullptr;
    uint32_t end = 0;
  };
  struct List {
    std::vector<Piece> pieces;  // without holes, from block 0
    bool hole = false;          // there are more, behind one
  };
  struct Plan {
    Own* own = nullptr;
    List blocks;
    std::vector<List> layers;
    std::string left;  // why, when this start cannot have it
    std::vector<Rows*> used;
    std::vector<Rows*> built;  // for this one
  };
  using Key = std::pair<store::NoteId, uint32_t>;  // `under`, layer

  void Note(store::NoteId id, ParsedNote note, std::optional<std::string_view> payload);
  void NoteRows(store::NoteId id, const RowsNote& note, std::optional<std::string_view> payload);
  // What the context's note counts: others' and its own.
  static std::vector<Inherited> SourcesOf(const Own& own);
  Plan PlanFor(Own* own);
  static bool IsSane(Rows& rows, const ContextOptions& options);
  List ListOf(Plan& plan, uint32_t layer);
  // None: the plan says why.
  std::optional<RecoveredContext> Build(Plan& plan);
  // The list's rows, at most `most`. True when some could not be had.
  bool BuildList(Plan& plan, const List& list, uint32_t most, RowList& rows);
  bool BuildPiece(Plan& plan, const Piece& piece, const Piece* before, const RowFormat& format);
  // All that may be of use to it.
  void KeepNotesOf(const Own& own);

  // Notes that are needed become runs, the others are discarded.
  void MakeRuns();
  ContextNotes NotesOf(Own& own);

  NoteKeeper* const keeper_;
  ContextBudgets* const budgets_;
  uint32_t epochs_end_ = 1;
  ContextBudgets read_;           // what the notes' rows take until they are built
  std::vector<OwnedNote> spent_;  // discarded with this
  absl::btree_map<store::NoteId, Own> contexts_;
  absl::flat_hash_map<store::NoteId, std::vector<std::unique_ptr<RowsFrom>>> from_;  // by `under`
  absl::flat_hash_map<Key, std::vector<std::unique_ptr<Rows>>> rows_;
  bool unread_contexts_ = false;
  absl::flat_hash_map<store::NoteId, std::shared_ptr<NoteRun>> runs_;
};

}  // namespace varve::recall
