// What left an eviction policy last, without the objects: identities, and a number for each.
//
// Not thread-safe. 40 bytes or so for each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"

namespace varve::store {

class GhostQueue {
 public:
  // Keeps at most `limit`, the new one among them.
  void Add(uint64_t identity, uint8_t number, size_t limit) {
    ghosts_[identity] = {next_, number};
    order_.emplace_back(identity, next_++);
    while (order_.size() > limit) {
      const auto [oldest, place] = order_.front();
      order_.pop_front();
      const auto found = ghosts_.find(oldest);
      if (found != ghosts_.end() && found->second.place == place) ghosts_.erase(found);
    }
  }

  // Takes back the last Add.
  void Withdraw(uint64_t identity) {
    if (order_.empty() || order_.back().first != identity) return;
    order_.pop_back();
    ghosts_.erase(identity);
  }
  // Its number when it was in; it leaves.
  std::optional<uint8_t> Take(uint64_t identity) {
    const auto found = ghosts_.find(identity);
    if (found == ghosts_.end()) return std::nullopt;
    const uint8_t number = found->second.number;
    ghosts_.erase(found);
    return number;
  }

 private:
  struct Ghost {
    uint64_t place = 0;
    uint8_t number = 0;
  };
  uint64_t next_ = 0;
  std::deque<std::pair<uint64_t, uint64_t>> order_;  // identity, place; some have left since
  absl::flat_hash_map<uint64_t, Ghost> ghosts_;
};

}  // namespace varve::store
