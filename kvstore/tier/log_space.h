// The directories of a log and the rules by which their space is used.
//
// A directory's appends leave one segment free, so that records can always be moved; its place is
// taken by the spare file, so that a file system that others fill has it too. Reclaim keeps
// a sixteenth of it free, at least two segments, and moves the records of the segments with the
// least that is live. A segment is worth that when a 64th of it or more is dead: what is dead
// shrinks with each, so that reclaim comes to an end.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/time/time.h"
#include "kvstore/base/executor.h"
#include "kvstore/tier/directory_io.h"
#include "kvstore/tier/directory_set.h"
#include "kvstore/tier/record_log.h"
#include "kvstore/tier/record_table.h"
#include "kvstore/tier/segment_files.h"

namespace varve::tier {

class Reclaimer;
class SegmentWriter;

// All but files, input and output, threads and writers is guarded by the log's mutex.
struct Directory {
  Directory(BlockIo* through, uint32_t depth);
  ~Directory();

  std::string path;
  DirectorySet::Id id{};  // while it is one of the log's
  std::unique_ptr<SegmentFiles> files;
  DirectoryIo io;
  base::ThreadPool threads;  // of writers and reclaimer, which make, sync and remove files
  std::unique_ptr<SegmentWriter> appends, moves;
  std::unique_ptr<Reclaimer> reclaimer;

  uint64_t capacity_bytes = 0;  // whole segments
  // What the file system has room for, as far as is known: below the capacity while it is full.
  uint64_t limit_bytes = 0;
  absl::Time tried_to_grow = absl::InfinitePast();  // beyond the limit, in vain
  DirectoryState state = DirectoryState::kOk;
  std::string problem;
  bool slow = false;  // as Tick has found it
  Holding holding;
  Segment* begun[2] = {};     // by the appends and the moves; null once it is sealed
  uint64_t queued_bytes = 0;  // of records that have no place yet
  uint64_t queued_weight = 0;
  uint64_t move_room = 0;   // left in the segment that records are moved to
  bool spare = false;       // there is a spare file, of which the next such segment is made
  bool starved = false;     // appends wait for a segment
  bool reclaiming = false;  // records are being moved, or a segment removed
  bool stuck = false;       // moving failed: not again until something changes
  RecordLog::Done drained;  // set while it drains
};

// The parts of a log that know its directories share one of these.
class LogSpace {
 public:
  explicit LogSpace(uint64_t segment_bytes) : segment_bytes_(segment_bytes) {}

  uint64_t segment_bytes() const { return segment_bytes_; }
  uint64_t FreeSegments(const Directory& directory) const;
  // What records may take.
  uint64_t UsableBytes(const Directory& directory) const;
  // Of that, what is live, queued, or wasted.
  static uint64_t TakenBytes(const Directory& directory);
  // What a record of so many bytes is expected to take of it, with its part of what is wasted in
  // segments of its like.
  uint64_t Weight(uint64_t bytes) const;
  // What header, footer and end of a segment may take without being waste.
  uint64_t SparedBytes() const;
  // Usable and neither live nor queued: reclaim gets it, if it has to. 0 when there is less than
  // nothing.
  uint64_t FreeBytes(const Directory& directory) const;
  // The file system had no room for more than used_bytes and the spare file.
  void Full(Directory& directory, uint64_t used_bytes, absl::Time now) const;
  // Takes back a little of what Full took away, now and then: true when it did.
  bool TryToGrow(Directory& directory, absl::Time now) const;
  // Whether a stream may begin one more segment.
  bool MayGrow(const Directory& directory, bool moves) const;
  bool TakesWrites(const Directory& directory) const {
    return directory.state == DirectoryState::kOk || directory.state == DirectoryState::kFull;
  }

  // The segment to move records from now; null when there is no need, or nothing is gained.
  Segment* PickVictim(const RecordTable& table, const Directory& directory) const;
  // A segment that can go: nothing live is in it, nobody reads it.
  static bool IsEmpty(const Segment& segment);
  // Whether a segment is about to be removed, whatever becomes of the records that are on their
  // way.
  static bool WillShrink(const RecordTable& table, const Directory& directory);
  // Whether a directory that may not grow will have a segment free later on.
  bool HasProspects(const RecordTable& table, const Directory& directory) const;

 private:
  uint64_t ReserveSegments(const Directory& directory) const;

  const uint64_t segment_bytes_;
};

}  // namespace varve::tier
