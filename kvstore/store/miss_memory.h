// Why a key that was here is gone: the last `capacity` keys that the store itself dropped, 16 bytes
// or so each.
//
// Keys are kept as 64-bit hashes: two keys of one hash give a wrong reason for a miss, never a
// wrong value. Not thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvstore/store/page_store.h"

namespace varve::store {

class MissMemory {
 public:
  // capacity 0 remembers nothing.
  explicit MissMemory(uint32_t capacity) : ring_(capacity) {}

  void Remember(uint64_t key_hash, MissReason reason);
  // The key is stored again.
  void Forget(uint64_t key_hash) { entries_.erase(key_hash); }
  std::optional<MissReason> Find(uint64_t key_hash) const;
  size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    uint32_t position = 0;  // in ring_; an entry whose place was taken over is gone
    MissReason reason = MissReason::kNeverStored;
  };
  std::vector<uint64_t> ring_;
  uint32_t next_ = 0;
  absl::flat_hash_map<uint64_t, Entry> entries_;
};

}  // namespace varve::store
