// Makes room in one directory: moves the records of segments with little that is live into others,
// and removes segments in which nothing is.
//
// Threads: Wake from any thread; Settle, then Stop, once. The owner's functions are called on the
// reclaimer's strand or a thread of the BlockIo, never under a lock.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/arena.h"
#include "kvstore/tier/log_space.h"
#include "kvstore/tier/record_table.h"
#include "kvstore/tier/segment_writer.h"
#include "kvstore/tier/strand.h"

namespace varve::tier {

// What a log and its reclaimers share.
struct LogState {
  explicit LogState(uint64_t segment_bytes) : space(segment_bytes) {}

  base::Mutex mutex;
  const LogSpace space;
  RecordTable table ABSL_GUARDED_BY(mutex);
  uint64_t moved_bytes ABSL_GUARDED_BY(mutex) = 0;
  uint64_t reclaimed_segments ABSL_GUARDED_BY(mutex) = 0;
  uint64_t damaged_records ABSL_GUARDED_BY(mutex) = 0;
};

class Reclaimer {
 public:
  class Owner {
   public:
    // Puts the record on its way to another segment; its done runs when it is there.
    virtual void Move(Directory& from, std::shared_ptr<RecordWrite> write) = 0;
    // Has the tombstones written once more, durably.
    virtual void Repeat(std::vector<Tombstone> tombstones, RecordLog::Done done) = 0;
    // There is a segment less; or none can be had by reclaim now.
    virtual void SpaceChanged(Directory& directory) = 0;
    // A system call failed.
    virtual void RemoveFailed(Directory& directory, const absl::Status& status) = 0;
    // A directory that drains: with an error when its records cannot be moved.
    virtual void Drained(Directory& directory, const absl::Status& status) = 0;

   protected:
    ~Owner() = default;
  };

  // All outlive the reclaimer.
  Reclaimer(LogState* state, Directory* directory, Owner* owner);

  // There may be something to do: space is short, a segment is empty.
  void Wake() { strand_.Wake(); }
  // Begins nothing more that needs a writer, and waits for what is under way.
  void Settle();
  void Stop() { strand_.Stop(); }

 private:
  struct Moving;

  void Work();
  bool RemoveOne();
  Segment* NextEmpty(std::vector<Tombstone>* needed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex);
  bool HasVictim();
  void MoveOn();
  std::shared_ptr<Moving> NextMove();
  void HaveRead(const std::shared_ptr<Moving>& moving, absl::Status status);
  void Over(const Moving& moving, const absl::Status& status);
  void EndOfDrain();
  void CallbackBegins() ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_->mutex);
  // The last of a callback, when it has said what became of its work: the reclaimer may be gone
  // after it.
  void CallbackEnds();

  LogState* const state_;
  Directory* const directory_;
  Owner* const owner_;

  Segment* victim_ ABSL_GUARDED_BY(state_->mutex) = nullptr;
  size_t cursor_ ABSL_GUARDED_BY(state_->mutex) = 0;       // in its ids
  bool for_drain_ ABSL_GUARDED_BY(state_->mutex) = false;  // it was chosen so
  absl::Status failure_ ABSL_GUARDED_BY(state_->mutex);    // of the last victim
  uint64_t moving_bytes_ ABSL_GUARDED_BY(state_->mutex) = 0;
  uint32_t moving_ ABSL_GUARDED_BY(state_->mutex) = 0;  // what is under way, tombstones too
  // The same, and callbacks that have said so and are not over.
  uint32_t callbacks_ ABSL_GUARDED_BY(state_->mutex) = 0;
  bool stopping_ ABSL_GUARDED_BY(state_->mutex) = false;
  base::CondVar changed_;

  Strand strand_;
};

}  // namespace varve::tier
