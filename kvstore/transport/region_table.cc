#include "kvstore/transport/region_table.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/transport/wire.h"

namespace varve::transport {

uint64_t RegionTable::Add(std::span<std::byte> memory) {
  const uint64_t id = RandomId();
  base::MutexLock lock(mutex_);
  regions_[id] = Entry{memory};
  return id;
}

absl::StatusOr<std::byte*> RegionTable::Pin(uint64_t id, uint64_t offset, uint64_t length) {
  base::MutexLock lock(mutex_);
  const auto it = regions_.find(id);
  if (it == regions_.end() || it->second.removed)
    return absl::UnavailableError("no such region at the peer");
  Entry& entry = it->second;
  if (offset > entry.memory.size() || length > entry.memory.size() - offset) {
    return absl::OutOfRangeError(absl::StrCat("range of ", length, " bytes at ", offset,
                                              " leaves the region of ", entry.memory.size()));
  }
  ++entry.pins;
  return entry.memory.data() + offset;
}

void RegionTable::Unpin(uint64_t id) {
  base::MutexLock lock(mutex_);
  const auto it = regions_.find(id);
  if (it != regions_.end() && --it->second.pins == 0 && it->second.removed) unpinned_.NotifyAll();
}

bool RegionTable::Remove(uint64_t id, absl::Duration grace) {
  const absl::Time end = absl::Now() + grace;
  base::MutexLock lock(mutex_);
  const auto it = regions_.find(id);
  if (it == regions_.end()) return true;
  it->second.removed = true;
  // flat_hash_map moves entries on insertion: look the entry up again after every wait.
  while (regions_.find(id)->second.pins > 0) {
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    unpinned_.WaitFor(mutex_, absl::ToChronoNanoseconds(left));
  }
  regions_.erase(id);
  return true;
}

}  // namespace varve::transport
