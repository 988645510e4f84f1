// Numbers that are given once, also over restarts.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kvstore/base/mutex.h"
#include "kvstore/recall/kept_notes.h"

namespace varve::recall {

// What may have been given is noted well ahead: a crash that loses the newest note loses also the
// notes of thousands of contexts that would have used it. Thread-safe.
class Epochs {
 public:
  explicit Epochs(NoteKeeper* keeper) : keeper_(keeper) {}

  // Goes on at `first`, after those that a journal names. RESOURCE_EXHAUSTED when none are left.
  // Its note is to be synced before the first one is used.
  absl::Status Begin(uint32_t first);
  // At random, not far behind.
  absl::Status BeginElsewhere(uint32_t first);
  uint32_t Next();

 private:
  void Reserve() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  NoteKeeper* const keeper_;
  base::Mutex mutex_;
  uint32_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  uint32_t end_ ABSL_GUARDED_BY(mutex_) = 1;  // of those noted
  OwnedNote note_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::recall
