// Where a log's records go, and what becomes of directories that refuse them.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/page/checksum.h"
#include "kvstore/tier/segment_log_impl.h"

namespace varve::tier {
namespace {

const char* NameOf(DirectoryState state) {
  switch (state) {
    case DirectoryState::kOk:
      return "takes writes";
    case DirectoryState::kFull:
      return "is full";
    case DirectoryState::kReadOnly:
      return "is read-only";
    case DirectoryState::kFailed:
      return "failed";
    case DirectoryState::kDraining:
      return "drains";
    case DirectoryState::kSlow:
      return "is slow";
    case DirectoryState::kAbsent:
      return "is absent";
  }
  return "?";
}

}  // namespace

// ---- which directory

std::vector<Directory*> SegmentLog::Writable(const std::vector<const Directory*>& refused) const {
  std::vector<Directory*> writable;
  for (const auto& directory : directories_) {
    if (!state_.space.TakesWrites(*directory) ||
        std::find(refused.begin(), refused.end(), directory.get()) != refused.end()) {
      continue;
    }
    writable.push_back(directory.get());
  }
  return writable;
}

absl::StatusOr<Directory*> SegmentLog::Choose(uint64_t bytes,
                                              const std::vector<const Directory*>& refused) {
  bool any = false;
  for (const bool slow : {false, true}) {
    Directory* best = nullptr;
    Directory* reclaiming = nullptr;
    for (Directory* directory : Writable(refused)) {
      if (directory->slow != slow) continue;
      any = true;
      if (directory->reclaiming) reclaiming = directory;
      const uint64_t free = state_.space.FreeBytes(*directory);
      if (free < bytes) continue;
      if (best == nullptr || free > state_.space.FreeBytes(*best)) best = directory;
    }
    if (best != nullptr) return best;
    // What is being moved counts twice: whether there is room, its writer will see.
    if (reclaiming != nullptr) return reclaiming;
  }
  if (!any) return NoDirectory();
  return absl::ResourceExhaustedError(
      absl::StrCat("no directory has room for ", bytes, " bytes more beside its live records"));
}

absl::StatusOr<Directory*> SegmentLog::ChooseForTombstones(
    const std::vector<const Directory*>& refused) {
  Directory* best = nullptr;
  const auto worth = [this](const Directory* directory) {
    return std::pair(!directory->slow, state_.space.FreeSegments(*directory));
  };
  for (Directory* directory : Writable(refused)) {
    if (best == nullptr || worth(directory) > worth(best)) best = directory;
  }
  if (best != nullptr) return best;
  return NoDirectory();
}

absl::Status SegmentLog::NoDirectory() const {
  std::string text = "no directory takes writes";
  for (const auto& directory : directories_) {
    absl::StrAppend(&text, "; ", directory->path, " ", NameOf(directory->state));
    if (!directory->problem.empty()) absl::StrAppend(&text, " (", directory->problem, ")");
  }
  return absl::UnavailableError(text);
}

bool SegmentLog::SendElsewhere(const WritePtr& write, absl::Status* status) {
  SegmentWriter* writer = nullptr;
  {
    base::MutexLock lock(state_.mutex);
    Dequeue(*write);
    const bool value = write->kind == RecordKind::kValue;
    if (value && write->place.segment != nullptr && !write->erased) {
      state_.table.Abandon(write->id, write->place, true);
    }
    write->place = {};
    if (write->move) return false;
    if (write->erased) {
      *status = absl::OkStatus();
      return false;
    }
    Directory* to = write->directory;
    if (value || to == nullptr || write->among_appends || !state_.space.TakesWrites(*to)) {
      if (to != nullptr) write->refused.push_back(to);
      write->among_appends = false;
      const absl::StatusOr<Directory*> other =
          value ? Choose(write->total_bytes, write->refused) : ChooseForTombstones(write->refused);
      if (!other.ok()) {
        if (!absl::IsResourceExhausted(*status)) *status = other.status();
        return false;
      }
      to = *other;
    } else {
      write->among_appends = true;
    }
    write->directory = to;
    if (value) Enqueue(*write, *to);
    writer = value || write->among_appends ? to->appends.get() : to->moves.get();
  }
  writer->Add(write);
  return true;
}

// ---- what the writers ask

absl::StatusOr<bool> SegmentLog::Admit(const SegmentWriter::Stream& stream, RecordWrite& write) {
  base::MutexLock lock(state_.mutex);
  if (tombstones_.get() == &write) tombstones_ = nullptr;
  if (!state_.space.TakesWrites(*stream.directory)) return NoDirectory();
  if (write.kind == RecordKind::kValue) return !write.erased;
  write.tombstones = state_.table.StillNeeded(write.tombstones, nullptr);
  write.text = EncodeTombstones(write.tombstones);
  write.payload = std::as_bytes(std::span(write.text));
  write.payload_crc32c = page::Crc32c(write.text.data(), write.text.size());
  return !write.tombstones.empty();
}

absl::StatusOr<Segment*> SegmentLog::NextSegment(const SegmentWriter::Stream& stream) {
  Directory& directory = *stream.directory;
  const uint64_t bytes = options_.segment_bytes;
  SegmentHeader header;
  uint64_t used_bytes = 0;
  bool wake = false;
  bool spare_first = false, may_take_spare = false, took_spare = false;
  {
    base::MutexLock lock(state_.mutex);
    Segment*& begun = directory.begun[stream.moves ? 1 : 0];
    if (begun != nullptr) {
      begun->sealing = true;
      RecordTable::CountWaste(begun, state_.space.SparedBytes());
    }
    begun = nullptr;
    if (!state_.space.TakesWrites(directory)) return NoDirectory();
    if (!state_.space.MayGrow(directory, stream.moves) &&
        !(state_.space.TryToGrow(directory, absl::Now()) &&
          state_.space.MayGrow(directory, stream.moves))) {
      if (!stream.moves) wake = !directory.starved;
      if (!WaitsForSegment(stream)) {
        return absl::ResourceExhaustedError(
            stream.moves ? "no segment is free for moving"
                         : absl::StrCat(directory.path,
                                        ": no segment is free, and reclaim can make none so"));
      }
    } else {
      may_take_spare = stream.moves && directory.spare;
      // Of the two that are free the spare file is one.
      spare_first = state_.space.FreeSegments(directory) < 2;
      used_bytes = directory.holding.used_bytes;
      directory.holding.used_bytes += bytes;
      header = {++last_segment_, bytes, directory.files->alignment(), store_id_};
    }
  }
  if (header.number == 0) {
    if (wake) directory.reclaimer->Wake();
    return nullptr;
  }
  absl::StatusOr<int> file = [&] {
    const DirectoryIo::Call call(&directory.io);
    const SegmentFiles& files = *directory.files;
    if (!may_take_spare) return files.Create(header.number, bytes);
    if (!spare_first) {
      absl::StatusOr<int> made = files.Create(header.number, bytes);
      if (!absl::IsResourceExhausted(made.status())) return made;
    }
    took_spare = true;
    absl::StatusOr<int> made = files.CreateFromSpare(header.number);
    if (made.ok()) return made;
    base::LogWarning(directory.path, " has lost its spare file: ", made.status().message());
    return files.Create(header.number, bytes);
  }();
  Segment* added = nullptr;
  bool again = false;
  absl::Status refused;
  {
    base::MutexLock lock(state_.mutex);
    directory.holding.used_bytes -= bytes;
    if (took_spare) directory.spare = false;
    if (!file.ok()) SetState(directory, file.status());
    if (!file.ok() && !absl::IsResourceExhausted(file.status())) {
      refused = NoDirectory();
    } else if (!file.ok()) {
      state_.space.Full(directory, used_bytes, absl::Now());
      // Segments have gone since it was tried.
      again = state_.space.MayGrow(directory, stream.moves) &&
              directory.holding.used_bytes < used_bytes;
      if (!again && !WaitsForSegment(stream)) refused = file.status();
    }
    if (file.ok()) {
      if (directory.state == DirectoryState::kFull &&
          directory.limit_bytes >= directory.capacity_bytes) {
        directory.state = DirectoryState::kOk;
        directory.problem.clear();
        base::LogInfo(directory.path, " takes writes again");
      }
      auto segment = std::make_unique<Segment>(header, *file, io_);
      segment->holding = &directory.holding;
      segment->directory = &directory;
      segment->end_bytes = header.alignment;
      added = state_.table.Add(std::move(segment));
      directory.begun[stream.moves ? 1 : 0] = added;
      if (stream.moves) {
        directory.move_room = bytes;
      } else {
        directory.starved = false;
      }
    }
  }
  if (again) return NextSegment(stream);
  directory.reclaimer->Wake();
  if (!refused.ok()) return refused;
  return added;
}

bool SegmentLog::WaitsForSegment(const SegmentWriter::Stream& stream) {
  Directory& directory = *stream.directory;
  if (stream.moves) return state_.space.WillShrink(state_.table, directory);
  directory.starved = true;  // which is a reason to move records
  directory.starved = state_.space.HasProspects(state_.table, directory);
  return directory.starved;
}

bool SegmentLog::Lay(RecordWrite& write, const Place& place, uint64_t room) {
  base::MutexLock lock(state_.mutex);
  if (write.erased) return false;
  Dequeue(write);
  write.place = place;
  Segment& segment = *place.segment;
  segment.end_bytes = place.offset + place.total_bytes;
  if (segment.directory->begun[1] == &segment) segment.directory->move_room = room;
  if (write.kind == RecordKind::kValue) {
    state_.table.Reserve(write.id, place);
  } else {
    segment.tombstones.insert(segment.tombstones.end(), write.tombstones.begin(),
                              write.tombstones.end());
  }
  return true;
}

void SegmentLog::Failed(const SegmentWriter::Stream& stream, const absl::Status& status) {
  {
    base::MutexLock lock(state_.mutex);
    ++write_errors_;
    SetState(*stream.directory, status);
    if (absl::IsResourceExhausted(status)) {
      state_.space.Full(*stream.directory, stream.directory->holding.used_bytes, absl::Now());
    }
  }
  stream.directory->reclaimer->Wake();
}

void SegmentLog::SetState(Directory& directory, const absl::Status& status) {
  DirectoryState state = DirectoryState::kFailed;
  if (absl::IsResourceExhausted(status)) state = DirectoryState::kFull;
  if (absl::IsPermissionDenied(status)) state = DirectoryState::kReadOnly;
  const bool worse = directory.state == DirectoryState::kOk ||
                     (directory.state != DirectoryState::kFailed && state != DirectoryState::kFull);
  if (!worse || directory.state == state) return;
  directory.state = state;
  directory.problem = std::string(status.message());
  base::LogWarning(directory.path, " ", NameOf(state), ": ", directory.problem);
}

void SegmentLog::Sealed(const SegmentWriter::Stream& stream, Segment& segment) {
  {
    base::MutexLock lock(state_.mutex);
    Segment*& begun = stream.directory->begun[stream.moves ? 1 : 0];
    if (begun == &segment) begun = nullptr;
    segment.sealing = false;
    segment.sealed = true;
    RecordTable::CountWaste(&segment, state_.space.SparedBytes());
  }
  stream.directory->reclaimer->Wake();
}

// ---- what reclaim asks

void SegmentLog::Move(Directory& from, WritePtr write) {
  SegmentWriter* writer = nullptr;
  absl::Status status;
  {
    base::MutexLock lock(state_.mutex);
    if (state_.table.Find(write->id) != nullptr) {
      status = CheckSize(*write);
      absl::StatusOr<Directory*> to = &from;
      if (from.state == DirectoryState::kDraining) to = Choose(write->total_bytes, {&from});
      status.Update(to.status());
      if (status.ok()) {
        Enqueue(*write, **to);
        writer = *to == &from ? from.moves.get() : (*to)->appends.get();
        pending_[write->id] = write;
      }
    }
  }
  if (writer != nullptr) {
    writer->Add(std::move(write));
  } else {
    std::move(write->done)(status);  // erased, or an error
  }
}

void SegmentLog::Repeat(std::vector<Tombstone> tombstones, Done done) {
  Adds adds;
  {
    base::MutexLock lock(state_.mutex);
    adds = Collect(std::move(tombstones), Sync::kYes, std::move(done));
  }
  Hand(std::move(adds));
}

void SegmentLog::SpaceChanged(Directory& directory) {
  Adds adds;
  {
    base::MutexLock lock(state_.mutex);
    if (!unwritten_.empty()) adds = Collect({}, Sync::kNo, [](absl::Status) {});
  }
  Hand(std::move(adds));
  directory.moves->Wake();
  directory.appends->Wake();
}

void SegmentLog::RemoveFailed(Directory& directory, const absl::Status& status) {
  // Even for want of space, which removing needs on some file systems: nothing else makes any.
  const bool read_only = absl::IsPermissionDenied(status);
  base::MutexLock lock(state_.mutex);
  SetState(directory, read_only ? status : absl::DataLossError(status.message()));
}

// ---- draining

void SegmentLog::DrainDirectory(const std::string& path, Done done) {
  {
    base::MutexLock lock(state_.mutex);
    if (absent_.contains(path)) {
      ++operations_;
      executor_->Run([this, path, done = std::move(done)]() mutable {
        GiveUpAbsent(path);
        Complete(std::move(done), absl::OkStatus());
      });
      return;
    }
  }
  absl::Status status = absl::NotFoundError(absl::StrCat(path, " is no directory of this log"));
  Directory* drained = nullptr;
  {
    base::MutexLock lock(state_.mutex);
    for (const auto& directory : directories_) {
      if (directory->path == path) drained = directory.get();
    }
    uint64_t room = 0;
    const std::vector<Directory*> others = Writable({drained});
    for (const Directory* directory : others) {
      const uint64_t usable = state_.space.UsableBytes(*directory);
      room += usable - std::min(usable, LogSpace::TakenBytes(*directory));
    }
    if (drained != nullptr) {
      const uint64_t needed = LogSpace::TakenBytes(*drained);
      status = absl::OkStatus();
      if (!state_.space.TakesWrites(*drained)) {
        status = absl::FailedPreconditionError(absl::StrCat(path, " ", NameOf(drained->state)));
      } else if (others.empty()) {
        status = absl::FailedPreconditionError(absl::StrCat(
            path, " is the only directory that takes writes: there is none to move its ",
            "records to; add another one first"));
      } else if (room < needed) {
        status = absl::ResourceExhaustedError(
            absl::StrCat("the records of ", path, " take ", needed,
                         " bytes, the other directories have ", room, "; add one, or evict first"));
      }
    }
    if (status.ok()) {
      drained->state = DirectoryState::kDraining;
      drained->drained = std::move(done);
      drained->stuck = false;
      for (const auto& [number, segment] : state_.table.segments()) {
        if (segment->directory == drained) segment->unmovable = false;
      }
      ++operations_;
    }
  }
  if (!status.ok()) {
    CompleteLater(std::move(done), status);
    return;
  }
  drained->appends->Rotate();
  drained->moves->Rotate();
  drained->reclaimer->Wake();
}

void SegmentLog::EndDrains() {
  std::vector<Directory*> drained;
  {
    base::MutexLock lock(state_.mutex);
    for (const auto& directory : directories_) {
      if (directory->state != DirectoryState::kDraining) continue;
      directory->state = DirectoryState::kOk;
      directory->problem = absl::StrCat("the store ended before ", directory->path, " was empty");
      drained.push_back(directory.get());
    }
  }
  for (Directory* directory : drained) directory->reclaimer->Wake();
}

void SegmentLog::Drained(Directory& directory, const absl::Status& status) {
  Done done;
  {
    base::MutexLock lock(state_.mutex);
    done = std::exchange(directory.drained, nullptr);
    if (!status.ok()) {
      if (directory.state == DirectoryState::kDraining) directory.state = DirectoryState::kOk;
      directory.stuck = false;
    }
  }
  if (status.ok()) {
    base::MutexLock set_lock(set_mutex_);
    {
      base::MutexLock lock(state_.mutex);
      const auto at = std::find_if(directories_.begin(), directories_.end(),
                                   [&](const auto& each) { return each.get() == &directory; });
      retired_.push_back(std::move(*at));
      directories_.erase(at);
      std::erase_if(set_.members, [&](const auto& member) { return member.id == directory.id; });
      NoteAbsentLocked();
    }
    WriteSets();
    directory.files->Leave();
    directory.files.reset();
  }
  Complete(std::move(done), status);
}

}  // namespace varve::tier
