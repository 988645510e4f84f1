// Cosines and sines by position, as the engine turned its keys (page::RopeTable), shared by all
// layers and sequences of a worker.
//
// Made in blocks when they are first asked for and kept: 4 * rotary_dim bytes a position, 64 MiB
// for 128k positions of 128 channels. Threads: any; what is answered stays where it is.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kvstore/base/mutex.h"
#include "kvstore/page/geometry.h"
#include "kvstore/page/rope.h"

namespace varve::worker {

class RopePositions {
 public:
  // Null where the geometry does not state how its keys were turned.
  static std::shared_ptr<RopePositions> Of(const page::Geometry& geometry);

  const page::RopeShape& shape() const { return table_.shape(); }

  // Of the positions of a page: [page_tokens][rotary_dim / 2] each.
  struct Rows {
    const float* cos;
    const float* sin;
  };
  Rows OfPage(uint32_t page);

 private:
  explicit RopePositions(const page::Geometry& geometry);

  const uint32_t page_tokens_;
  const page::RopeTable table_;
  base::Mutex mutex_;
  std::vector<std::unique_ptr<float[]>> pages_ ABSL_GUARDED_BY(mutex_);  // cosines, then sines
};

}  // namespace varve::worker
