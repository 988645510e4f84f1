// One stream of records into segments, one segment after the other: through a few buffers, several
// of them on their way to the device at a time. What queues up while they are is written together.
//
// Threads: Add, TakeQueued, Wake and Rotate from any thread. The owner's functions are called on
// the writer's strand (Admit, NextSegment, Place) or on a thread of the BlockIo, never under a lock
// of the writer; they may call Add and Wake of any writer. A segment's footer is written when its
// records are on the device, so that one which exists can be trusted.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/arena.h"
#include "kvstore/tier/block_io.h"
#include "kvstore/tier/record_log.h"
#include "kvstore/tier/record_table.h"
#include "kvstore/tier/segment_format.h"
#include "kvstore/tier/strand.h"

namespace varve::tier {

// A record on its way into a segment. The first part is the writer's to read; what else there is
// belongs to the owner, under its lock.
struct RecordWrite {
  RecordKind kind = RecordKind::kValue;
  RecordId id = 0;
  std::string label;
  std::span<const std::byte> payload;
  uint32_t payload_crc32c = 0;
  Sync sync = Sync::kNo;

  RecordLog::Done done;
  std::string text;                      // payload of tombstones
  std::vector<Tombstone> tombstones;     // collected, until the record is admitted
  std::vector<RecordLog::Done> waiting;  // for the tombstones
  Place place;                           // once it is laid out: place.segment is set
  bool erased = false;
  bool move = false;
  uint64_t total_bytes = 0;  // that it will take, about
  bool queued = false;       // it has no place yet, and counts as queued in its directory
  Directory* directory = nullptr;
  std::vector<const Directory*> refused;  // by these it was not taken
  bool among_appends = false;             // tombstones that found no room among what is moved

 private:
  friend class SegmentWriter;
  uint32_t unwritten_ = 0;  // buffers that have bytes of it, and one until all of it is in buffers
  absl::Status status_;
};

class SegmentWriter {
 public:
  // Which stream of the owner this is.
  struct Stream {
    Directory* directory = nullptr;
    bool moves = false;
  };

  class Owner {
   public:
    // The record is next. False: it is not wanted any more; an error: it is refused.
    virtual absl::StatusOr<bool> Admit(const Stream& stream, RecordWrite& write) = 0;
    // A new segment. Null: not now, Wake will be called.
    virtual absl::StatusOr<Segment*> NextSegment(const Stream& stream) = 0;
    // The record will lie there; `room`: what remains behind it. False: it is not wanted any more.
    virtual bool Lay(RecordWrite& write, const Place& place, uint64_t room) = 0;
    // A write or a sync failed.
    virtual void Failed(const Stream& stream, const absl::Status& status) = 0;
    // Of every record that was added: written (and synced), not wanted any more, or an error.
    virtual void Finished(const std::shared_ptr<RecordWrite>& write, absl::Status status) = 0;
    // Nothing more is written to the segment.
    virtual void Sealed(const Stream& stream, Segment& segment) = 0;

   protected:
    ~Owner() = default;
  };

  struct Options {
    uint64_t buffer_bytes = 0;
    uint32_t buffers = 0;
    IoClass io_class = IoClass::kDemand;
  };

  // RESOURCE_EXHAUSTED when there is no memory for the buffers. All outlive the writer.
  static absl::StatusOr<std::unique_ptr<SegmentWriter>> Create(const Options& options,
                                                               const Stream& stream, Owner* owner,
                                                               BlockIo* io,
                                                               base::Executor* executor);
  // Waits for what is with the device; Close comes before when nothing is to be lost.
  ~SegmentWriter();

  void Add(std::shared_ptr<RecordWrite> write);
  // Takes back what has not been begun, but for moves: it may go elsewhere.
  std::vector<std::shared_ptr<RecordWrite>> TakeQueued();
  // A segment may be had now.
  void Wake() { strand_.Wake(); }
  // Seals the segment once what is queued is written.
  void Rotate();
  // Rotates and waits; nothing is added any more.
  void Close();

 private:
  // A segment that is being written, until its footer is there. Guarded by the writer's mutex.
  struct Open {
    Segment* segment = nullptr;
    uint32_t writes = 0;  // with the device
    bool failed = false;
    bool sealing = false;
    bool syncing = false;
    std::vector<std::shared_ptr<RecordWrite>> unsynced;
    Arena footer;
    uint64_t footer_bytes = 0;
  };
  struct Buffer {
    std::span<std::byte> memory;
    uint64_t offset = 0;  // in the segment
    size_t used = 0;
    std::shared_ptr<Open> open;
    std::vector<std::shared_ptr<RecordWrite>> writes;
  };

  SegmentWriter(const Options& options, const Stream& stream, Owner* owner, BlockIo* io,
                base::Executor* executor, Arena arena);

  // ---- on the strand
  void Work();
  bool TakeNext();
  bool LayOut();
  bool HasRoom() const;
  bool CopyOn();
  void CopyPiece(std::span<std::byte> to) const;
  void Flush();
  void Seal();

  // ---- anywhere
  std::unique_ptr<Buffer> TakeBuffer();
  void Written(std::unique_ptr<Buffer> buffer, const absl::Status& status);
  void Over(const std::shared_ptr<Open>& open, std::shared_ptr<RecordWrite> write);
  void Sync(const std::shared_ptr<Open>& open);
  void SealWhenWritten(const std::shared_ptr<Open>& open);
  void WriteFooter(const std::shared_ptr<Open>& open, const absl::Status& synced);
  void EndSeal(const std::shared_ptr<Open>& open, const absl::Status& status);
  void Leave();

  const Options options_;
  const Stream stream_;
  Owner* const owner_;
  BlockIo* const io_;
  const Arena arena_;

  // Of the strand.
  std::shared_ptr<Open> open_;
  uint64_t position_ = 0;  // where the next record begins; 0: the segment's header is not written
  uint64_t label_bytes_ = 0;
  std::vector<FooterEntry> entries_;
  std::unique_ptr<Buffer> fill_;
  std::shared_ptr<RecordWrite> current_;
  bool laid_out_ = false;  // current_ has its place; of its bytes copied_ are in buffers
  std::string prefix_;     // what comes before its payload
  uint64_t copied_ = 0, total_ = 0, base_ = 0;

  base::Mutex mutex_;
  base::CondVar changed_;
  std::deque<std::shared_ptr<RecordWrite>> queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Buffer>> free_ ABSL_GUARDED_BY(mutex_);
  uint32_t busy_ ABSL_GUARDED_BY(mutex_) = 0;  // callbacks to come
  bool rotate_ ABSL_GUARDED_BY(mutex_) = false;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;

  Strand strand_;  // last: its work uses the rest
};

}  // namespace varve::tier
