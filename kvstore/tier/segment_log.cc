#include "kvstore/tier/segment_log.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/tier/segment_log_impl.h"

namespace varve::tier {
namespace {

// Of one tombstone record.
constexpr size_t kMaxTombstones = 16384;

}  // namespace

absl::StatusOr<std::unique_ptr<RecordLog>> OpenSegmentLog(const SegmentLogOptions& options,
                                                          BlockIo* io, base::Executor* executor) {
  return SegmentLog::Open(options, io, executor);
}

SegmentLog::~SegmentLog() {
  EndDrains();
  std::vector<Directory*> all;
  {
    base::MutexLock lock(state_.mutex);
    while (operations_ > 0) changed_.Wait(state_.mutex);
    for (const auto& directory : directories_) all.push_back(directory.get());
    for (const auto& directory : retired_) all.push_back(directory.get());
  }
  // Reclaim needs the writers of all directories until the last record has moved.
  for (Directory* directory : all) directory->reclaimer->Settle();
  for (Directory* directory : all) directory->reclaimer->Stop();
  for (Directory* directory : all) {
    directory->appends->Close();
    directory->moves->Close();
  }
}

// ---- Append

absl::Status SegmentLog::CheckSize(RecordWrite& write) const {
  const auto label_bytes = static_cast<uint32_t>(write.label.size());
  uint32_t alignment = kMinSegmentAlignment;
  for (const auto& directory : directories_) {
    alignment = std::max(alignment, directory->files->alignment());
  }
  if (write.label.size() <= kMaxLabelBytes && write.payload.size() <= options_.segment_bytes) {
    write.total_bytes = ExtentOf(label_bytes, write.payload.size(), alignment).total_bytes;
    const uint64_t rest = alignment + FooterBytes(1, label_bytes, alignment);
    if (write.total_bytes + rest <= options_.segment_bytes) return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a record of ", write.label.size(), " bytes of label and ", write.payload.size(),
                   " of payload does not fit into a segment of ", options_.segment_bytes));
}

void SegmentLog::Enqueue(RecordWrite& write, Directory& directory) {
  write.directory = &directory;
  write.queued = true;
  directory.queued_bytes += write.total_bytes;
  directory.queued_weight += state_.space.Weight(write.total_bytes);
}

void SegmentLog::Dequeue(RecordWrite& write) {
  if (std::exchange(write.queued, false)) {
    write.directory->queued_bytes -= write.total_bytes;
    write.directory->queued_weight -= state_.space.Weight(write.total_bytes);
  }
}

RecordId SegmentLog::Append(AppendRequest request, Done done) {
  auto write = std::make_shared<RecordWrite>();
  write->label = std::move(request.label);
  write->payload = request.payload;
  write->payload_crc32c = request.payload_crc32c;
  write->sync = request.sync;
  write->done = std::move(done);
  absl::Status status;
  SegmentWriter* writer = nullptr;
  RecordId id = 0;
  {
    base::MutexLock lock(state_.mutex);
    id = write->id = ++last_id_;
    status = CheckSize(*write);
    if (status.ok()) {
      const absl::StatusOr<Directory*> directory = Choose(write->total_bytes, {});
      status = directory.status();
      if (directory.ok()) {
        Enqueue(*write, **directory);
        writer = (*directory)->appends.get();
        ++operations_;
        pending_bytes_ += write->payload.size();
        pending_[id] = write;
      }
    }
  }
  if (writer == nullptr) {
    CompleteLater(std::move(write->done), std::move(status));
  } else {
    writer->Add(std::move(write));
  }
  return id;
}

void SegmentLog::Finished(const WritePtr& write, absl::Status status) {
  if (!status.ok() && SendElsewhere(write, &status)) return;
  std::vector<Done> waiting;
  {
    base::MutexLock lock(state_.mutex);
    Dequeue(*write);
    if (write->kind == RecordKind::kTombstone) {
      waiting.swap(write->waiting);
      if (!status.ok()) {
        unwritten_.insert(unwritten_.end(), write->tombstones.begin(), write->tombstones.end());
      }
    } else {
      pending_.erase(write->id);
      if (!write->move) pending_bytes_ -= write->payload.size();
      if (status.ok() && write->place.segment != nullptr && !write->erased) {
        state_.table.Commit(write->id, write->place);
        if (!write->move) written_bytes_ += write->payload.size();
      }
    }
  }
  if (write->move) {
    std::move(write->done)(status);
  } else if (write->kind == RecordKind::kValue) {
    Complete(std::move(write->done), status);
  }
  for (Done& done : waiting) Complete(std::move(done), status);
}

void SegmentLog::Complete(Done done, const absl::Status& status) {
  std::move(done)(status);
  base::MutexLock lock(state_.mutex);
  if (--operations_ == 0) changed_.NotifyAll();
}

void SegmentLog::CompleteLater(Done done, absl::Status status) {
  {
    base::MutexLock lock(state_.mutex);
    ++operations_;
  }
  executor_->Run([this, done = std::move(done), status = std::move(status)]() mutable {
    Complete(std::move(done), status);
  });
}

// ---- Read

void SegmentLog::Read(RecordId id, uint64_t offset, std::span<std::byte> to, IoClass io_class,
                      Done done) {
  Place place;
  absl::Status status;
  uint64_t bytes = 0;
  const auto address = reinterpret_cast<uintptr_t>(to.data());
  if ((offset | to.size() | address) % kReadAlignment != 0) {
    status = absl::InvalidArgumentError(
        absl::StrCat("offset, size and address of a read must be multiples of ", kReadAlignment));
  } else {
    base::MutexLock lock(state_.mutex);
    const Place* const found = state_.table.Find(id);
    if (found == nullptr) {
      status = absl::NotFoundError(absl::StrCat("no record ", id));
    } else {
      place = *found;
      const uint64_t payload = place.total_bytes - place.payload_offset;
      bytes = offset >= payload ? 0 : std::min<uint64_t>(to.size(), payload - offset);
      if (bytes > 0) {
        ++operations_;
        ++place.segment->readers;
      }
    }
  }
  if (bytes == 0) {
    CompleteLater(std::move(done), std::move(status));
    return;
  }
  place.segment->directory->io.Read(
      place.segment->file.get(), place.offset + place.payload_offset + offset, to.first(bytes),
      io_class,
      [this, id, segment = place.segment, done = std::move(done)](absl::Status read) mutable {
        Reclaimer* wake = nullptr;
        {
          base::MutexLock lock(state_.mutex);
          --segment->readers;
          if (LogSpace::IsEmpty(*segment)) wake = segment->directory->reclaimer.get();
        }
        if (wake != nullptr) wake->Wake();
        if (!read.ok()) {
          read = absl::DataLossError(absl::StrCat("record ", id, ": ", read.message()));
        }
        Complete(std::move(done), read);
      });
}

// ---- Erase

void SegmentLog::EraseOne(RecordId id, std::vector<Tombstone>& tombstones,
                          std::vector<Directory*>& changed) {
  const auto pending = pending_.find(id);
  if (pending != pending_.end() && !pending->second->erased) {
    RecordWrite& write = *pending->second;
    write.erased = true;
    if (write.place.segment != nullptr) {
      tombstones.push_back({id, write.place.segment->header.number});
      state_.table.Abandon(id, write.place, false);
    }
  }
  const Place* const found = state_.table.Find(id);
  const Segment* const segment = found == nullptr ? nullptr : found->segment;
  state_.table.Erase(id, tombstones);
  if (segment == nullptr) return;
  Directory* const directory = segment->directory;
  directory->stuck = false;
  if (!LogSpace::IsEmpty(*segment) && !directory->starved) return;
  if (std::find(changed.begin(), changed.end(), directory) == changed.end()) {
    changed.push_back(directory);
  }
}

void SegmentLog::Erase(std::span<const RecordId> ids, Sync sync, Done done) {
  Adds adds;
  std::vector<Directory*> changed;
  absl::Status now = absl::OkStatus();
  bool is_over = false;
  {
    base::MutexLock lock(state_.mutex);
    std::vector<Tombstone> tombstones;
    for (const RecordId id : ids) EraseOne(id, tombstones, changed);
    now = ChooseForTombstones({}).status();
    if (!now.ok()) {
      // They are written with the next ones, when a directory takes writes again.
      unwritten_.insert(unwritten_.end(), tombstones.begin(), tombstones.end());
      if (tombstones.empty()) now = absl::OkStatus();
    }
    is_over = tombstones.empty() || !now.ok();
    if (!is_over) adds = Collect(std::move(tombstones), sync, std::move(done));
  }
  if (is_over) CompleteLater(std::move(done), std::move(now));
  Hand(std::move(adds));
  for (Directory* directory : changed) directory->reclaimer->Wake();
}

SegmentLog::Adds SegmentLog::Collect(std::vector<Tombstone> tombstones, Sync sync, Done done) {
  tombstones.insert(tombstones.end(), unwritten_.begin(), unwritten_.end());
  unwritten_.clear();
  // Over when the last record is.
  struct Parts {
    base::Mutex mutex;
    size_t left ABSL_GUARDED_BY(mutex) = 0;
    absl::Status status ABSL_GUARDED_BY(mutex);
    Done done;
  };
  const auto parts = std::make_shared<Parts>();
  {
    base::MutexLock lock(parts->mutex);
    parts->left = (tombstones.size() + kMaxTombstones - 1) / kMaxTombstones;
    parts->done = std::move(done);
  }
  Adds adds;
  for (size_t begin = 0; begin < tombstones.size(); begin += kMaxTombstones) {
    const size_t end = std::min(begin + kMaxTombstones, tombstones.size());
    if (tombstones_ == nullptr || tombstones_->tombstones.size() + end - begin > kMaxTombstones) {
      tombstones_ = std::make_shared<RecordWrite>();
      tombstones_->kind = RecordKind::kTombstone;
      tombstones_->id = ++last_id_;
      const absl::StatusOr<Directory*> directory = ChooseForTombstones({});
      if (directory.ok()) tombstones_->directory = *directory;
      adds.emplace_back(directory.ok() ? (*directory)->moves.get() : nullptr, tombstones_);
    }
    RecordWrite& write = *tombstones_;
    write.tombstones.insert(write.tombstones.end(), tombstones.begin() + begin,
                            tombstones.begin() + end);
    if (sync == Sync::kYes) write.sync = Sync::kYes;
    ++operations_;
    write.waiting.push_back([parts](absl::Status status) {
      {
        base::MutexLock lock(parts->mutex);
        parts->status.Update(status);
        if (--parts->left > 0) return;
        status = parts->status;
      }
      std::move(parts->done)(status);
    });
    if (write.directory == nullptr) tombstones_ = nullptr;
  }
  return adds;
}

void SegmentLog::Hand(Adds adds) {
  for (auto& [writer, write] : adds) {
    if (writer != nullptr) {
      writer->Add(std::move(write));
    } else {
      // Not here, where the caller may hold what its Done takes.
      executor_->Run([this, write = std::move(write)] {
        Finished(write, absl::UnavailableError("no directory takes writes"));
      });
    }
  }
}

// ---- Usage

LogRoom SegmentLog::Room() const {
  base::MutexLock lock(state_.mutex);
  return RoomLocked();
}

LogRoom SegmentLog::RoomLocked() const {
  LogRoom room;
  // What lies in others takes nothing from those that are written to.
  for (const Directory* directory : Writable({})) {
    room.takes_writes = true;
    room.live_bytes += directory->holding.live_bytes;
    room.taken_bytes += LogSpace::TakenBytes(*directory);
    room.usable_bytes += state_.space.UsableBytes(*directory);
  }
  room.pending_bytes = pending_bytes_;
  return room;
}

LogUsage SegmentLog::Usage() const {
  base::MutexLock lock(state_.mutex);
  LogUsage usage;
  static_cast<LogRoom&>(usage) = RoomLocked();
  for (const auto& directory : directories_) {
    const Holding& holding = directory->holding;
    usage.directories.push_back({directory->path, directory->state, directory->problem,
                                 directory->capacity_bytes, holding.live_bytes, holding.used_bytes,
                                 holding.segments, holding.records});
    if (directory->slow && state_.space.TakesWrites(*directory)) {
      usage.directories.back().state = DirectoryState::kSlow;
      usage.directories.back().problem =
          absl::StrCat("an operation has been with its disk for ",
                       absl::ToInt64Seconds(directory->io.OldestAge()), " s");
    }
    usage.used_bytes += holding.used_bytes;
  }
  for (const auto& [path, id] : absent_) {
    DirectoryUsage absent;
    absent.path = path;
    absent.state = DirectoryState::kAbsent;
    absent.problem = "it was not there when the store started";
    usage.directories.push_back(std::move(absent));
  }
  usage.records = state_.table.records();
  usage.written_bytes = written_bytes_;
  usage.moved_bytes = state_.moved_bytes;
  usage.reclaimed_segments = state_.reclaimed_segments;
  usage.damaged_records = state_.damaged_records;
  usage.write_errors = write_errors_;
  return usage;
}

}  // namespace varve::tier
