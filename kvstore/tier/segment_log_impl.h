// The log in segment files: what ties table, writers and reclaimers together. Used by
// segment_log*.cc alone.
//
// One lock guards the state of all; the writers have their own for their queues, and neither is
// held while the other is taken.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvstore/tier/directory_set.h"
#include "kvstore/tier/log_space.h"
#include "kvstore/tier/reclaimer.h"
#include "kvstore/tier/record_table.h"
#include "kvstore/tier/segment_log.h"
#include "kvstore/tier/segment_scan.h"
#include "kvstore/tier/segment_writer.h"

namespace varve::tier {

class SegmentLog final : public RecordLog, private SegmentWriter::Owner, private Reclaimer::Owner {
 public:
  using StoreId = DirectorySet::Id;

  static absl::StatusOr<std::unique_ptr<RecordLog>> Open(const SegmentLogOptions& options,
                                                         BlockIo* io, base::Executor* executor);
  ~SegmentLog() override;

  absl::Status Recover(absl::FunctionRef<void(const Recovered&)> fn) override;
  RecordId Append(AppendRequest request, Done done) override;
  void Read(RecordId id, uint64_t offset, std::span<std::byte> to, IoClass io_class,
            Done done) override;
  void Erase(std::span<const RecordId> ids, Sync sync, Done done) override;
  void Tick() override;
  LogRoom Room() const override;
  LogUsage Usage() const override;
  absl::Status AddDirectory(const std::string& path, uint64_t capacity_bytes) override;
  void DrainDirectory(const std::string& path, Done done) override;

 private:
  using WritePtr = std::shared_ptr<RecordWrite>;

  SegmentLog(const SegmentLogOptions& options, BlockIo* io, base::Executor* executor)
      : options_(options), io_(io), executor_(executor), state_(options.segment_bytes) {}

  // ---- opening (segment_log_open.cc)
  absl::StatusOr<std::unique_ptr<Directory>> OpenDirectory(const std::string& path,
                                                           uint64_t capacity_bytes);
  absl::Status OpenSegments(Directory& directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  // What is none of the log's segments is left out.
  absl::Status OpenSegmentFile(Directory& directory, uint64_t number)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  // A file that is a copy of the segment `is`.
  absl::Status SetAside(Directory& directory, uint64_t number, uint64_t is)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  absl::Status CheckStoreId(const Directory& directory, const SegmentHeader& header);
  void SealRecovered(const std::vector<Segment*>& segments, std::vector<SegmentContents>& contents);
  void MakeSpare(Directory& directory);
  // The memory of directories that were given up. Blocks; not on the executor.
  void FreeRetired();
  // Fills the table; the records that live, as they lie in contents.
  std::vector<const FooterEntry*> TakeContents(const std::vector<Segment*>& segments,
                                               std::vector<SegmentContents>& contents)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);

  // ---- the set of directories (segment_log_set.cc)
  // After all were opened: takes their segments, and gives each its id. FAILED_PRECONDITION for one
  // that the log has given up while it was not there, or that is a copy of another.
  absl::Status OpenSet();
  // Takes the directory in as one that was none of the log's.
  void Join(Directory& directory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(set_mutex_, state_.mutex);
  // Into each directory that is not slow.
  void WriteSets() ABSL_EXCLUSIVE_LOCKS_REQUIRED(set_mutex_);
  // Again, when one was left out.
  void WriteSetsBehind();
  void NoteAbsentLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(set_mutex_, state_.mutex);
  // False: none is called so.
  bool GiveUpAbsent(const std::string& path);

  // ---- directories that are slow (segment_log_slow.cc)
  // What is queued there goes to others, as far as they have room.
  void Relieve(Directory& slow);

  // ---- SegmentWriter::Owner and Reclaimer::Owner (segment_log_space.cc)
  absl::StatusOr<bool> Admit(const SegmentWriter::Stream& stream, RecordWrite& write) override;
  absl::StatusOr<Segment*> NextSegment(const SegmentWriter::Stream& stream) override;
  bool Lay(RecordWrite& write, const Place& place, uint64_t room) override;
  void Failed(const SegmentWriter::Stream& stream, const absl::Status& status) override;
  void Finished(const WritePtr& write, absl::Status status) override;
  void Sealed(const SegmentWriter::Stream& stream, Segment& segment) override;
  void Move(Directory& from, WritePtr write) override;
  void Repeat(std::vector<Tombstone> tombstones, Done done) override;
  void SpaceChanged(Directory& directory) override;
  void RemoveFailed(Directory& directory, const absl::Status& status) override;
  void Drained(Directory& directory, const absl::Status& status) override;

  LogRoom RoomLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  // Gives up what has not moved yet.
  void EndDrains();

  // ---- where things go
  // The directories to choose among for what is written: slow ones when no other has room.
  std::vector<Directory*> Writable(const std::vector<const Directory*>& refused) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  absl::StatusOr<Directory*> Choose(uint64_t bytes, const std::vector<const Directory*>& refused)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  absl::StatusOr<Directory*> ChooseForTombstones(const std::vector<const Directory*>& refused)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  absl::Status NoDirectory() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  void SetState(Directory& directory, const absl::Status& status)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  // Adds to the tombstones that are next to be written, or begins a record of them: what to hand to
  // which writer then, null when no directory takes it.
  using Adds = std::vector<std::pair<SegmentWriter*, WritePtr>>;
  Adds Collect(std::vector<Tombstone> tombstones, Sync sync, Done done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  void Hand(Adds adds);
  void Enqueue(RecordWrite& write, Directory& directory)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  void Dequeue(RecordWrite& write) ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  // Another directory for what this one did not take; false: there is none.
  bool SendElsewhere(const WritePtr& write, absl::Status* status);
  // changed: directories in which reclaim may find something to do by that.
  void EraseOne(RecordId id, std::vector<Tombstone>& tombstones, std::vector<Directory*>& changed)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  // Whether a stream that may not begin a segment now has one to wait for.
  bool WaitsForSegment(const SegmentWriter::Stream& stream)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);
  // Sets total_bytes.
  absl::Status CheckSize(RecordWrite& write) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mutex);

  // Runs done and ends one of the operations that the destructor waits for.
  void Complete(Done done, const absl::Status& status);
  void CompleteLater(Done done, absl::Status status);

  const SegmentLogOptions options_;
  BlockIo* const io_;
  base::Executor* const executor_;
  StoreId store_id_{};  // set when the first directory is opened
  bool has_store_id_ = false;

  // Taken before state_.mutex, and while the set's files are written.
  base::Mutex set_mutex_;
  DirectorySet set_ ABSL_GUARDED_BY(set_mutex_);  // `own` is each directory's
  bool sets_behind_ ABSL_GUARDED_BY(set_mutex_) = false;

  mutable LogState state_;
  // Members of the set by what they are called here, as they are not there.
  std::map<std::string, DirectorySet::Id> absent_ ABSL_GUARDED_BY(state_.mutex);
  std::vector<std::unique_ptr<Directory>> directories_ ABSL_GUARDED_BY(state_.mutex);
  std::vector<std::unique_ptr<Directory>> retired_ ABSL_GUARDED_BY(state_.mutex);
  absl::flat_hash_map<RecordId, WritePtr> pending_ ABSL_GUARDED_BY(state_.mutex);
  WritePtr tombstones_ ABSL_GUARDED_BY(state_.mutex);               // queued, not yet admitted
  std::vector<Tombstone> unwritten_ ABSL_GUARDED_BY(state_.mutex);  // no directory took them
  RecordId last_id_ ABSL_GUARDED_BY(state_.mutex) = 0;
  uint64_t last_segment_ ABSL_GUARDED_BY(state_.mutex) = 0;
  uint64_t pending_bytes_ ABSL_GUARDED_BY(state_.mutex) = 0;
  uint64_t written_bytes_ ABSL_GUARDED_BY(state_.mutex) = 0;
  uint64_t write_errors_ ABSL_GUARDED_BY(state_.mutex) = 0;
  uint64_t operations_ ABSL_GUARDED_BY(state_.mutex) = 0;
  base::CondVar changed_;
};

}  // namespace varve::tier
