#include "kvstore/tier/record_table.h"

#include <algorithm>
#include <utility>

namespace varve::tier {

Segment* RecordTable::Add(std::unique_ptr<Segment> segment) {
  segment->holding->used_bytes += segment->header.segment_bytes;
  ++segment->holding->segments;
  Segment* const added = segment.get();
  segments_[added->header.number] = std::move(segment);
  return added;
}

void RecordTable::CountWaste(Segment* segment, uint64_t spared_bytes) {
  const uint64_t end = segment->end_bytes + spared_bytes;
  const uint64_t bytes = segment->header.segment_bytes;
  if (segment->waste_bytes > 0 || end >= bytes) return;
  segment->waste_bytes = bytes - end;
  segment->holding->waste_bytes += segment->waste_bytes;
}

void RecordTable::Remove(Segment* segment) {
  for (const RecordId id : segment->ids) {
    const auto found = copies_.find(id);
    if (found == copies_.end()) continue;
    std::erase(found->second, segment);
    if (found->second.empty()) copies_.erase(found);
  }
  segment->holding->used_bytes -= segment->header.segment_bytes;
  segment->holding->waste_bytes -= segment->waste_bytes;
  --segment->holding->segments;
  if (incomplete_) removed_.insert(segment->header.number);
  segments_.erase(segment->header.number);
}

const Place* RecordTable::Find(RecordId id) const {
  const auto found = places_.find(id);
  return found == places_.end() ? nullptr : &found->second;
}

void RecordTable::Reserve(RecordId id, const Place& place) {
  place.segment->ids.push_back(id);
  place.segment->live_bytes += place.total_bytes;
  ++place.segment->live_records;
  place.segment->holding->live_bytes += place.total_bytes;
  ++place.segment->holding->records;
}

void RecordTable::Release(const Place& place) {
  place.segment->live_bytes -= place.total_bytes;
  --place.segment->live_records;
  place.segment->holding->live_bytes -= place.total_bytes;
  --place.segment->holding->records;
}

void RecordTable::Commit(RecordId id, const Place& place) {
  const auto [at, added] = places_.try_emplace(id, place);
  if (added) return;
  Release(at->second);
  AddCopy(id, at->second.segment);
  at->second = place;
}

void RecordTable::Abandon(RecordId id, const Place& place, bool copy) {
  Release(place);
  if (copy) AddCopy(id, place.segment);
}

void RecordTable::AddCopy(RecordId id, Segment* segment) { copies_[id].push_back(segment); }

bool RecordTable::Erase(RecordId id, std::vector<Tombstone>& tombstones) {
  const auto copies = copies_.find(id);
  if (copies != copies_.end()) {
    for (const Segment* segment : copies->second) {
      tombstones.push_back({id, segment->header.number});
    }
    copies_.erase(copies);
  }
  const auto found = places_.find(id);
  if (found == places_.end()) return false;
  tombstones.push_back({id, found->second.segment->header.number});
  Release(found->second);
  places_.erase(found);
  return true;
}

std::vector<Tombstone> RecordTable::StillNeeded(std::span<const Tombstone> tombstones,
                                                const Segment* except) const {
  std::vector<Tombstone> needed;
  for (const Tombstone& tombstone : tombstones) {
    const auto found = segments_.find(tombstone.segment);
    const bool may_exist =
        found == segments_.end() && incomplete_ && !removed_.contains(tombstone.segment);
    if (may_exist || (found != segments_.end() && found->second.get() != except)) {
      needed.push_back(tombstone);
    }
  }
  return needed;
}

}  // namespace varve::tier
