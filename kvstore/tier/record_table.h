// Which record lies where, and what of each segment is still wanted: a pure state machine.
//
// Not thread-safe. Several copies of a record can exist: while it is moved, after a write that
// failed, after a crash between the two. One of them is its place; the others are remembered until
// their segments go, because what is erased must be marked as gone in each of them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "kvstore/base/descriptor.h"
#include "kvstore/tier/record_log.h"
#include "kvstore/tier/segment_format.h"

namespace varve::tier {

struct Directory;

// What lies in one directory.
struct Holding {
  uint64_t live_bytes = 0;
  uint64_t used_bytes = 0;   // whole segments
  uint64_t waste_bytes = 0;  // of its segments
  uint64_t segments = 0;
  uint64_t records = 0;
};

struct Segment {
  // Takes fd. through: what reads and writes it; outlives the segment.
  Segment(const SegmentHeader& what, int fd, BlockIo* through)
      : header(what), file(fd), io(through) {
    io->AddFile(fd);
  }
  ~Segment() { io->RemoveFile(file.get()); }
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  const SegmentHeader header;
  const base::Descriptor file;
  BlockIo* const io;
  Holding* holding = nullptr;
  Directory* directory = nullptr;  // whose holding that is
  bool sealing = false;            // its last bytes are being written
  bool sealed = false;             // nothing is written to it any more
  bool removing = false;           // its file is being removed
  bool unmovable = false;          // it could not be read: what lies in it stays there
  bool handing_on = false;         // its tombstones are being written elsewhere
  bool headless = false;           // its header could not be read when the log was opened
  bool unreadable = false;         // nor could other parts, which may be read at a later start
  uint64_t end_bytes = 0;          // up to here it is used: live or lost
  uint64_t waste_bytes = 0;        // behind that, once it is left, beyond what each loses
  uint64_t live_bytes = 0;
  uint32_t live_records = 0;
  uint32_t readers = 0;
  std::vector<RecordId> ids;  // of all records that were put here, dead ones too
  std::vector<Tombstone> tombstones;
};

struct Place {
  Segment* segment = nullptr;
  uint32_t offset = 0;          // of the record in the segment
  uint32_t payload_offset = 0;  // from there
  uint32_t total_bytes = 0;
};

class RecordTable {
 public:
  // segment->holding outlives the table.
  Segment* Add(std::unique_ptr<Segment> segment);
  // No further record is put there: what lies behind its end is waste, but for spared_bytes. Counts
  // once.
  static void CountWaste(Segment* segment, uint64_t spared_bytes);
  // Nothing of it is live, nobody reads it.
  void Remove(Segment* segment);
  bool HasSegment(uint64_t number) const { return segments_.contains(number); }
  const absl::flat_hash_map<uint64_t, std::unique_ptr<Segment>>& segments() const {
    return segments_;
  }

  // Null when there is none.
  const Place* Find(RecordId id) const;
  // A record is being written there: its bytes count as live.
  void Reserve(RecordId id, const Place& place);
  // It is written, and found there from now on. Where it was before remains as a copy.
  void Commit(RecordId id, const Place& place);
  // It was erased meanwhile: its bytes are dead. Or its write failed, and `copy` of it may be
  // there.
  void Abandon(RecordId id, const Place& place, bool copy);
  // A copy that is not the place.
  void AddCopy(RecordId id, Segment* segment);
  // The record is gone; adds what must be written down for that. False: there was none.
  bool Erase(RecordId id, std::vector<Tombstone>& tombstones);
  // Some of the log's directories are not there: segments that are not known may lie in them.
  void SetIncomplete(bool incomplete) { incomplete_ = incomplete; }
  // Those whose segments exist, or may; `except`: not those of records in this one.
  std::vector<Tombstone> StillNeeded(std::span<const Tombstone> tombstones,
                                     const Segment* except) const;

  uint64_t records() const { return places_.size(); }

 private:
  void Release(const Place& place);

  bool incomplete_ = false;
  absl::flat_hash_set<uint64_t> removed_;  // while it is incomplete
  absl::flat_hash_map<uint64_t, std::unique_ptr<Segment>> segments_;
  absl::flat_hash_map<RecordId, Place> places_;
  absl::flat_hash_map<RecordId, std::vector<Segment*>> copies_;
};

}  // namespace varve::tier
