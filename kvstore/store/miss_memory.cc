#include "kvstore/store/miss_memory.h"

namespace varve::store {

void MissMemory::Remember(uint64_t key_hash, MissReason reason) {
  if (ring_.empty()) return;
  const auto oldest = entries_.find(ring_[next_]);
  if (oldest != entries_.end() && oldest->second.position == next_) entries_.erase(oldest);
  ring_[next_] = key_hash;
  entries_[key_hash] = Entry{next_, reason};
  next_ = next_ + 1 == ring_.size() ? 0 : next_ + 1;
}

std::optional<MissReason> MissMemory::Find(uint64_t key_hash) const {
  const auto found = entries_.find(key_hash);
  if (found == entries_.end()) return std::nullopt;
  return found->second.reason;
}

}  // namespace varve::store
