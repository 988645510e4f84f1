// Which objects to evict so that one contiguous stretch of a tier becomes free. A pure function
// over extents.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace varve::store {

struct Object;

// A stretch of the tier that is free, or would be without the object.
struct Piece {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  Object* object = nullptr;  // null: free
};

// Consecutive pieces, without gaps, of `bytes` or more together, whose objects take the fewest
// bytes; empty when there are none. Sorts pieces, which must not overlap; the answer points into
// it.
std::span<const Piece> CheapestWindow(std::vector<Piece>& pieces, uint64_t bytes);

}  // namespace varve::store
