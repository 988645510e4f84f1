// Keeps the notes of contexts within what the journal has room for.
//
// Threads: none; one call at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kvstore/recall/context.h"
#include "kvstore/recall/kept_notes.h"

namespace varve::recall {

// Making room begins near the journal's limit, and ends well below it.
class NoteRoom {
 public:
  // The keeper keeps notes.
  explicit NoteRoom(NoteKeeper* keeper) : keeper_(keeper) {}
  // Erases what was discarded, then looks.
  bool TakesTooMuch();

 private:
  NoteKeeper* const keeper_;
  bool making_ = false;
};

// The contexts parked the longest forget their notes as long as all take too much; those whose own
// note was lost write it again where there is room. Answers how many have forgotten theirs.
uint64_t TendNotes(NoteKeeper* keeper, std::vector<std::shared_ptr<Context>> contexts);

}  // namespace varve::recall
