// Small notes of the rooms above the store, kept beside the objects, so that they too survive a
// restart.
//
// Threads: all but Recover may be called from any thread, Write and Erase do not wait; Recover
// once, before the others. What was written last may be lost in a crash, as the store's
// durability says; what is recovered of it has no holes as long as one directory is used, and
// readers must bear some.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace varve::store {

using NoteId = uint64_t;  // grows with each Write, over restarts too; 0: none

class Journal {
 public:
  // Once, outside of locks, when the note is written, or will not be.
  using Written = absl::AnyInvocable<void(const absl::Status&) &&>;
  struct Note {
    std::string label;  // at most 64 KiB
    std::string payload;
    bool bounded = true;  // for the few that must not be dropped: false
    Written written;      // may be null
  };
  // What notes take on disk.
  struct Room {
    uint64_t used_bytes = 0;
    uint64_t max_bytes = 0;
  };

  virtual ~Journal() = default;
  // 0: dropped, as notes take all that they may, on disk or on their way there; `written` is not
  // called then.
  virtual NoteId Write(Note note) = 0;
  // Not before what was written before is there: a crash never keeps an erasure and loses the note
  // that made it right.
  virtual void Erase(std::span<const NoteId> ids) = 0;
  // Waits until what was written before survives a crash.
  virtual absl::Status Sync() = 0;
  // The notes that were there at start, the newest first; without a payload what cannot be read
  // this time. Damaged ones are left out, and erased.
  using Found = absl::FunctionRef<void(NoteId, std::string_view label,
                                       std::optional<std::string_view> payload)>;
  virtual absl::Status Recover(Found fn) = 0;
  virtual Room GetRoom() const = 0;
};

}  // namespace varve::store
