// Small notes of the rooms above the store, kept beside the objects, so that they too survive a
// restart.
//
// Threads: Write, Erase and Sync may be called from any thread, Write and Erase do not wait;
// Recover once, before them. What was written last may be lost in a crash, as the store's
// durability says; what is recovered of it has no holes as long as one directory is used, and
// readers must bear some.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace varve::store {

using NoteId = uint64_t;  // grows with each Write, over restarts too; 0: none

class Journal {
 public:
  virtual ~Journal() = default;
  // label: at most 64 KiB.
  virtual NoteId Write(std::string label, std::string payload) = 0;
  // Not before what was written before is there: a crash never keeps an erasure and loses the note
  // that made it right.
  virtual void Erase(std::span<const NoteId> ids) = 0;
  // Waits until what was written before survives a crash.
  virtual absl::Status Sync() = 0;
  // The notes that were there at start, ascending; damaged ones are left out.
  virtual absl::Status Recover(
      absl::FunctionRef<void(NoteId, std::string_view label, std::string_view payload)> fn) = 0;
};

}  // namespace varve::store
