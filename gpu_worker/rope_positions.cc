#include "gpu_worker/rope_positions.h"

namespace varve::worker {

std::shared_ptr<RopePositions> RopePositions::Of(const page::Geometry& geometry) {
  if (!geometry.rope.has_value()) return nullptr;
  return std::shared_ptr<RopePositions>(new RopePositions(geometry));
}

RopePositions::RopePositions(const page::Geometry& geometry)
    : page_tokens_(geometry.page_tokens), table_(*geometry.rope, geometry.head_dim) {}

RopePositions::Rows RopePositions::OfPage(uint32_t page) {
  const size_t row = shape().rotary_dim / 2;
  base::MutexLock lock(mutex_);
  if (page >= pages_.size()) pages_.resize(page + 1);
  std::unique_ptr<float[]>& rows = pages_[page];
  const size_t sines = page_tokens_ * row;
  if (rows == nullptr) {
    rows = std::make_unique<float[]>(2 * sines);
    for (uint32_t t = 0; t < page_tokens_; ++t) {
      table_.CosSin(page * page_tokens_ + t, &rows[t * row], &rows[sines + t * row]);
    }
  }
  return {rows.get(), rows.get() + sines};
}

}  // namespace varve::worker
