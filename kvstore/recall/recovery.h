// Contexts from the notes of a journal, after a restart.
//
// Nothing depends on the order of the notes: which rows a context has follows from its own note. A
// note that is missing, or does not fit, is a hole at which the rows end. What contexts share is
// there once again. Notes that no context needs are discarded.
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

class Recovery {
 public:
  Recovery(NoteKeeper* keeper, ContextBudgets* budgets);

  // The journal's errors; FAILED_PRECONDITION for notes of another version.
  absl::Status Read(store::Journal* journal);
  // Epochs below may have been given.
  uint32_t epochs_end() const { return epochs_end_; }
  // The newest contexts, at most max_contexts, newest first. Rows that do not fit the budgets are
  // left out like missing ones. Once.
  std::vector<RecoveredContext> Take(uint32_t max_contexts);

 private:
  struct Rows {
    RowsNote note;
    store::NoteId id = 0;
    std::string bytes;
    // Whether they can be rows of a context with these options, once that was asked.
    std::optional<ContextOptions> asked;
    bool sane = false;
    // All rows of a context up to this note's longest use, once that is built.
    uint32_t end = 0;
    store::NoteId before = 0;
    std::optional<RowList> built;
    bool unfit = false;
    bool used = false;
  };
  struct Own {
    ContextNote note;
    OwnedNote kept;
  };
  // A note's use in one list: its rows from first() to end.
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
  };

  void Note(store::NoteId id, ParsedNote note, std::string_view payload);
  Plan PlanFor(Own* own);
  List ListOf(const Own& own, uint32_t layer);
  static bool Fits(Rows& rows, const ContextOptions& options);
  RecoveredContext Build(const Plan& plan);
  // The list's rows, at most `most`. True when some could not be had.
  bool BuildList(const List& list, uint32_t most, ByteBudget* budget, RowList& rows);
  bool BuildPiece(const Piece& piece, const Piece* before, ByteBudget* budget,
                  const RowFormat& format);

  // Notes that are used become runs, the others are discarded.
  void MakeRuns();
  ContextNotes NotesOf(Own& own);

  NoteKeeper* const keeper_;
  ContextBudgets* const budgets_;
  uint32_t epochs_end_ = 1;
  ContextBudgets read_;           // what the notes' rows take until they are built
  std::vector<OwnedNote> spent_;  // discarded with this
  absl::btree_map<store::NoteId, Own> contexts_;
  // By `under` and layer.
  absl::flat_hash_map<std::pair<store::NoteId, uint32_t>, std::vector<std::unique_ptr<Rows>>> rows_;
  absl::flat_hash_map<store::NoteId, std::shared_ptr<NoteRun>> runs_;
};

}  // namespace varve::recall
