#include "kvstore/store/window.h"

#include <algorithm>
#include <limits>

namespace varve::store {

std::span<const Piece> CheapestWindow(std::vector<Piece>& pieces, uint64_t bytes) {
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.offset < b.offset; });
  const auto cost = [](const Piece& p) { return p.object != nullptr ? p.bytes : 0; };
  std::span<const Piece> best;
  uint64_t best_cost = std::numeric_limits<uint64_t>::max();
  size_t first = 0;
  uint64_t window_bytes = 0, window_cost = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i > 0 && pieces[i - 1].offset + pieces[i - 1].bytes != pieces[i].offset) {
      first = i;
      window_bytes = window_cost = 0;
    }
    window_bytes += pieces[i].bytes;
    window_cost += cost(pieces[i]);
    for (; window_bytes - pieces[first].bytes >= bytes; ++first) {
      window_bytes -= pieces[first].bytes;
      window_cost -= cost(pieces[first]);
    }
    if (window_bytes < bytes || window_cost >= best_cost) continue;
    best = std::span(pieces).subspan(first, i - first + 1);
    best_cost = window_cost;
  }
  return best;
}

}  // namespace varve::store
