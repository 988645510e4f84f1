// A trace against eviction policies alone: no bytes, no store.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "client/bench/trace.h"

namespace varve::client {

struct SimulatedCache {
  uint64_t hits = 0;         // references to blocks that were there
  uint64_t prefix_hits = 0;  // of them those with every block before them in the prompt there too
  double saved_cost = 0;     // of computing those, in first tokens' (store::RecomputeCost)
  double whole_cost = 0;     // of computing all that was asked for
  double seconds = 0;        // that it took
};

// The name of the optimum that knows the future: it keeps those blocks whose next use is nearest,
// and stores none whose next use is farther than theirs (Belady, 1966, with bypass).
inline constexpr std::string_view kBelady = "belady";

// The store's eviction policy of this name, or kBelady, over a cache of so many blocks of one size.
// INVALID_ARGUMENT for unknown names. capacity_blocks > 0.
absl::StatusOr<SimulatedCache> SimulateCache(const Trace& trace, const std::string& policy,
                                             uint32_t capacity_blocks);

}  // namespace varve::client
