#include "kvstore/tier/log_space.h"

#include <algorithm>

#include "kvstore/tier/reclaimer.h"
#include "kvstore/tier/segment_writer.h"

namespace varve::tier {
namespace {

// Of a segment: what must be dead before its records are moved.
constexpr uint64_t kLeastGain = 64;
// Of a segment: what header, footer and the end that no record fits into may take.
constexpr uint64_t kOverhead = 32;
// One goes on while the other waits for the file system.
constexpr int kDirectoryThreads = 2;
// Of a full file system: whether it has room again.
constexpr absl::Duration kBetweenTries = absl::Seconds(10);

}  // namespace

Directory::Directory(BlockIo* through, uint32_t depth)
    : io(through, depth), threads("nvme", kDirectoryThreads) {}
Directory::~Directory() = default;

uint64_t LogSpace::FreeSegments(const Directory& directory) const {
  const uint64_t used = directory.holding.used_bytes;
  return used >= directory.limit_bytes ? 0 : (directory.limit_bytes - used) / segment_bytes_;
}

uint64_t LogSpace::ReserveSegments(const Directory& directory) const {
  return std::max<uint64_t>(2, directory.limit_bytes / segment_bytes_ / 16);
}

uint64_t LogSpace::UsableBytes(const Directory& directory) const {
  const uint64_t segments = directory.limit_bytes / segment_bytes_;
  const uint64_t reserve = ReserveSegments(directory);
  return segments <= reserve ? 0 : (segments - reserve) * (segment_bytes_ - SparedBytes());
}

uint64_t LogSpace::SparedBytes() const { return segment_bytes_ / kOverhead; }

uint64_t LogSpace::TakenBytes(const Directory& directory) {
  return directory.holding.live_bytes + directory.holding.waste_bytes + directory.queued_weight;
}

uint64_t LogSpace::Weight(uint64_t bytes) const {
  const uint64_t room = segment_bytes_ - SparedBytes();
  return bytes == 0 || bytes >= room ? bytes : room / (room / bytes);
}

void LogSpace::Full(Directory& directory, uint64_t used_bytes, absl::Time now) const {
  const uint64_t spare = directory.spare ? segment_bytes_ : 0;
  directory.limit_bytes = std::min(directory.limit_bytes, used_bytes + spare);
  directory.tried_to_grow = now;
}

bool LogSpace::TryToGrow(Directory& directory, absl::Time now) const {
  if (directory.limit_bytes >= directory.capacity_bytes ||
      now < directory.tried_to_grow + kBetweenTries) {
    return false;
  }
  // One more than the least that is kept free.
  const uint64_t limit =
      std::min(directory.holding.used_bytes + 3 * segment_bytes_, directory.capacity_bytes);
  if (limit <= directory.limit_bytes) return false;
  directory.limit_bytes = limit;
  return true;
}

uint64_t LogSpace::FreeBytes(const Directory& directory) const {
  const uint64_t usable = UsableBytes(directory);
  const uint64_t taken = directory.holding.live_bytes + directory.queued_bytes;
  return taken >= usable ? 0 : usable - taken;
}

bool LogSpace::MayGrow(const Directory& directory, bool moves) const {
  const uint64_t free = FreeSegments(directory);
  // A crash, or a smaller capacity, can leave no segment free for moving: then the spare file lies
  // beyond the capacity, until it has emptied others.
  return moves ? free >= 1 || directory.spare : free >= 2;
}

bool LogSpace::IsEmpty(const Segment& segment) {
  // What it holds is not known. A directory that drains gives it up.
  if (segment.unreadable && segment.directory->state != DirectoryState::kDraining) return false;
  return segment.sealed && !segment.removing && segment.live_bytes == 0 && segment.readers == 0;
}

Segment* LogSpace::PickVictim(const RecordTable& table, const Directory& directory) const {
  const bool draining = directory.state == DirectoryState::kDraining;
  const bool needed =
      draining || directory.starved || FreeSegments(directory) < ReserveSegments(directory);
  if (!needed || directory.stuck || (!draining && !TakesWrites(directory))) return nullptr;
  Segment* best = nullptr;
  for (const auto& [number, segment] : table.segments()) {
    if (segment->holding != &directory.holding || !segment->sealed || segment->removing ||
        segment->unmovable || segment->live_bytes == 0) {
      continue;
    }
    const uint64_t dead = segment->end_bytes - std::min(segment->end_bytes, segment->live_bytes);
    if (!draining && dead < segment->header.segment_bytes / kLeastGain) continue;
    if (best == nullptr || segment->live_bytes < best->live_bytes) best = segment.get();
  }
  if (best == nullptr || draining || MayGrow(directory, true)) return best;
  const bool fits = best->live_bytes + segment_bytes_ / kOverhead <= directory.move_room;
  return fits ? best : nullptr;
}

bool LogSpace::WillShrink(const RecordTable& table, const Directory& directory) {
  for (const auto& [number, segment] : table.segments()) {
    if (segment->holding != &directory.holding) continue;
    if (segment->removing) return true;
    if (IsEmpty(*segment) && table.StillNeeded(segment->tombstones, segment.get()).empty()) {
      return true;
    }
  }
  return false;
}

bool LogSpace::HasProspects(const RecordTable& table, const Directory& directory) const {
  if (directory.reclaiming || PickVictim(table, directory) != nullptr ||
      WillShrink(table, directory)) {
    return true;
  }
  for (const auto& [number, segment] : table.segments()) {
    if (segment->holding != &directory.holding) continue;
    // One that is being sealed, or that a reader is about to leave, is looked at again then.
    if (segment->sealing) return true;
    if (!segment->sealed || segment->unreadable || segment->live_bytes > 0) continue;
    // An empty one goes when its tombstones are written elsewhere, which may have failed, or may
    // itself wait for a segment.
    if (segment->handing_on) continue;
    if (!directory.stuck || segment->readers > 0) return true;
  }
  return false;
}

}  // namespace varve::tier
