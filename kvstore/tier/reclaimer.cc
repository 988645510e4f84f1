#include "kvstore/tier/reclaimer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::tier {
namespace {

// Records on the way at a time: one sync answers for so many bytes.
constexpr uint64_t kWindowBytes = 16 << 20;

}  // namespace

// A record on its way: its bytes as they lie in the victim.
struct Reclaimer::Moving {
  RecordId id = 0;
  Place from;
  Arena bytes;
};

Reclaimer::Reclaimer(LogState* state, Directory* directory, Owner* owner)
    : state_(state),
      directory_(directory),
      owner_(owner),
      strand_(&directory->threads, [this] { Work(); }) {}

void Reclaimer::Settle() {
  base::MutexLock lock(state_->mutex);
  stopping_ = true;
  while (callbacks_ > 0) changed_.Wait(state_->mutex);
}

void Reclaimer::Work() {
  for (;;) {
    // First, because the records of the next victim may need the space.
    while (RemoveOne()) {
    }
    if (!HasVictim()) break;
    MoveOn();
    base::MutexLock lock(state_->mutex);
    if (victim_ != nullptr) return;  // the rest when some of it has arrived
  }
  {
    base::MutexLock lock(state_->mutex);
    directory_->reclaiming = false;
  }
  // Those who wait for a segment learn that none is coming.
  owner_->SpaceChanged(*directory_);
  EndOfDrain();
}

// ---- segments in which nothing is live

// A segment that can go, marked so; null when there is none, or with tombstones that must be
// written elsewhere before.
Segment* Reclaimer::NextEmpty(std::vector<Tombstone>* needed) {
  for (const auto& [number, segment] : state_->table.segments()) {
    if (segment->holding != &directory_->holding || segment.get() == victim_ ||
        segment->handing_on || !LogSpace::IsEmpty(*segment)) {
      continue;
    }
    *needed = state_->table.StillNeeded(segment->tombstones, segment.get());
    if (needed->empty()) {
      segment->removing = true;
    } else if (directory_->stuck || stopping_) {
      continue;
    } else {
      segment->handing_on = true;
    }
    return segment.get();
  }
  return nullptr;
}

// False: there is none to remove.
bool Reclaimer::RemoveOne() {
  std::vector<Tombstone> needed;
  Segment* segment = nullptr;
  uint64_t number = 0;
  bool to_spare = false;
  {
    base::MutexLock lock(state_->mutex);
    const DirectoryState now = directory_->state;
    if (now == DirectoryState::kFailed || now == DirectoryState::kReadOnly) return false;
    segment = NextEmpty(&needed);
    if (segment == nullptr) return false;
    number = segment->header.number;
    to_spare = !directory_->spare && now != DirectoryState::kDraining;
    directory_->reclaiming = true;
    if (!needed.empty()) CallbackBegins();
  }
  if (!needed.empty()) {
    owner_->Repeat(std::move(needed), [this, number](absl::Status status) {
      {
        base::MutexLock lock(state_->mutex);
        --moving_;
        const auto found = state_->table.segments().find(number);
        if (found != state_->table.segments().end()) {
          found->second->handing_on = false;
          if (status.ok()) found->second->tombstones.clear();
        }
        if (!status.ok()) {
          directory_->stuck = true;
          failure_.Update(status);
        }
      }
      CallbackEnds();
    });
    return true;
  }
  // What was said about its records is of use until its name is gone for good.
  bool kept = false;
  const absl::Status removed = [&] {
    const DirectoryIo::Call call(&directory_->io);
    const SegmentFiles& files = *directory_->files;
    kept = to_spare && files.RemoveToSpare(number).ok();
    if (kept) return absl::OkStatus();
    absl::Status status = files.Remove(number);
    kept = to_spare && status.ok() && files.MakeSpare(state_->space.segment_bytes()).ok();
    return status;
  }();
  {
    base::MutexLock lock(state_->mutex);
    segment->removing = false;
    if (kept) directory_->spare = true;
    if (removed.ok()) {
      state_->table.Remove(segment);
      ++state_->reclaimed_segments;
      directory_->stuck = false;
    }
  }
  if (!removed.ok()) {
    owner_->RemoveFailed(*directory_, removed);
    return false;
  }
  owner_->SpaceChanged(*directory_);
  return true;
}

// ---- moving records

bool Reclaimer::HasVictim() {
  base::MutexLock lock(state_->mutex);
  if (victim_ != nullptr) return true;
  if (stopping_) return false;
  victim_ = state_->space.PickVictim(state_->table, *directory_);
  if (victim_ == nullptr) return false;
  cursor_ = 0;
  failure_ = absl::OkStatus();
  for_drain_ = directory_->state == DirectoryState::kDraining;
  directory_->reclaiming = true;
  return true;
}

void Reclaimer::MoveOn() {
  while (const std::shared_ptr<Moving> moving = NextMove()) {
    absl::StatusOr<Arena> bytes = Arena::Map(moving->from.total_bytes, false);
    if (!bytes.ok()) {
      Over(*moving, bytes.status());
      continue;
    }
    moving->bytes = std::move(*bytes);
    const Place& from = moving->from;
    directory_->io.Read(
        from.segment->file.get(), from.offset, moving->bytes.memory().first(from.total_bytes),
        IoClass::kPrefetch,
        [this, moving](absl::Status status) { HaveRead(moving, std::move(status)); });
  }
}

// The next live record of the victim, when so much more may be on the way. Without one, and nothing
// on the way, the victim is done with.
std::shared_ptr<Reclaimer::Moving> Reclaimer::NextMove() {
  base::MutexLock lock(state_->mutex);
  const bool end = stopping_ || !failure_.ok();
  for (; !end && cursor_ < victim_->ids.size(); ++cursor_) {
    const RecordId id = victim_->ids[cursor_];
    const Place* const place = state_->table.Find(id);
    if (place == nullptr || place->segment != victim_) continue;
    if (moving_bytes_ > 0 && moving_bytes_ + place->total_bytes > kWindowBytes) return nullptr;
    ++cursor_;
    CallbackBegins();
    ++victim_->readers;
    moving_bytes_ += place->total_bytes;
    auto moving = std::make_shared<Moving>();
    moving->id = id;
    moving->from = *place;
    return moving;
  }
  if (moving_bytes_ > 0) return nullptr;
  // What failed because the directory began to drain is tried again: it goes elsewhere now.
  const bool drains = directory_->state == DirectoryState::kDraining;
  if (!failure_.ok() && drains == for_drain_) directory_->stuck = true;
  victim_ = nullptr;
  return nullptr;
}

void Reclaimer::HaveRead(const std::shared_ptr<Moving>& moving, absl::Status status) {
  const Place& from = moving->from;
  if (!status.ok()) {
    bool known;
    {
      base::MutexLock lock(state_->mutex);
      known = std::exchange(from.segment->unmovable, true);
    }
    if (!known)
      base::LogWarning(directory_->path, ": segment ", from.segment->header.number,
                       " stays where it is: ", status.message());
    Over(*moving, absl::DataLossError(status.message()));
    return;
  }
  const std::span<const std::byte> bytes = moving->bytes.memory().first(from.total_bytes);
  const auto header = ParseRecordHeader(bytes, from.offset, from.segment->header);
  if (!header.ok() || header->sequence != moving->id ||
      ExtentOf(static_cast<uint32_t>(header->label.size()), header->payload_bytes,
               from.segment->header.alignment)
              .total_bytes != from.total_bytes) {
    base::LogWarning(directory_->path, ": record ", moving->id, " is lost: ",
                     header.ok() ? "another one lies there" : header.status().message());
    {
      base::MutexLock lock(state_->mutex);
      std::vector<Tombstone> tombstones;
      if (state_->table.Erase(moving->id, tombstones)) ++state_->damaged_records;
    }
    Over(*moving, absl::OkStatus());
    return;
  }
  auto write = std::make_shared<RecordWrite>();
  write->id = moving->id;
  write->label = std::string(header->label);
  write->payload = bytes.subspan(from.payload_offset, header->payload_bytes);
  write->payload_crc32c = header->payload_crc32c;
  write->sync = Sync::kYes;  // its old place is given up for it
  write->move = true;
  write->done = [this, moving](absl::Status moved) { Over(*moving, moved); };
  owner_->Move(*directory_, std::move(write));
}

void Reclaimer::Over(const Moving& moving, const absl::Status& status) {
  {
    base::MutexLock lock(state_->mutex);
    --moving_;
    --moving.from.segment->readers;
    moving_bytes_ -= moving.from.total_bytes;
    if (status.ok()) {
      state_->moved_bytes += moving.from.total_bytes - moving.from.payload_offset;
    } else {
      failure_.Update(status);
    }
  }
  CallbackEnds();
}

void Reclaimer::CallbackBegins() {
  ++moving_;
  ++callbacks_;
}

// In this order: what the strand looks at was changed before it is woken, and Settle waits until
// nobody wakes it any more.
void Reclaimer::CallbackEnds() {
  strand_.Wake();
  base::MutexLock lock(state_->mutex);
  if (--callbacks_ == 0) changed_.NotifyAll();
}

void Reclaimer::EndOfDrain() {
  absl::Status failure;
  {
    base::MutexLock lock(state_->mutex);
    if (directory_->drained == nullptr || victim_ != nullptr || moving_ > 0) return;
    if (directory_->state != DirectoryState::kDraining) {
      failure = absl::UnavailableError(directory_->problem);
    } else if (directory_->holding.used_bytes > 0) {
      if (!directory_->stuck) return;  // some are still being written, or read
      failure = failure_;
    }
  }
  owner_->Drained(*directory_, failure);
}

}  // namespace varve::tier
