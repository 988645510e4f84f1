#include "gpu_worker/tensor_arena.h"

#include <algorithm>

namespace varve::worker {

size_t TensorArena::FindGap(size_t bytes) const {
  size_t begin = 0;
  for (const auto& [offset, end] : taken_) {
    if (offset - begin >= bytes) return begin;
    begin = end;
  }
  return capacity() - begin >= bytes ? begin : capacity();
}

TensorArena::Piece TensorArena::Take(size_t bytes) {
  const size_t rounded = std::max((bytes + kAlignment - 1) / kAlignment, size_t{1}) * kAlignment;
  base::MutexLock lock(mutex_);
  size_t offset = FindGap(rounded);
  while (offset == capacity()) {
    released_.Wait(mutex_);
    offset = FindGap(rounded);
  }
  taken_.emplace(offset, offset + rounded);
  return Piece(this, offset, bytes);
}

void TensorArena::Release(size_t offset) {
  base::MutexLock lock(mutex_);
  taken_.erase(offset);
  released_.NotifyAll();
}

}  // namespace varve::worker
