#include "gpu_worker/tensor_arena.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace varve::worker {

size_t TensorArena::FindGap(size_t bytes) const {
  size_t begin = 0;
  for (const auto& [offset, end] : taken_) {
    if (offset - begin >= bytes) return begin;
    begin = end;
  }
  return capacity() - begin >= bytes ? begin : capacity();
}

absl::StatusOr<TensorArena::Piece> TensorArena::Take(size_t bytes, absl::Duration patience) {
  const size_t rounded = std::max((bytes + kAlignment - 1) / kAlignment, size_t{1}) * kAlignment;
  const absl::Time deadline = absl::Now() + patience;
  base::MutexLock lock(mutex_);
  size_t offset = FindGap(rounded);
  while (offset == capacity()) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::ResourceExhaustedError(
          absl::StrCat(bytes, " of ", capacity(), " bytes of tensor memory were not free within ",
                       absl::FormatDuration(patience),
                       "; calls that were never answered keep theirs until a new attachment"));
    }
    released_.WaitFor(mutex_, absl::ToChronoNanoseconds(left));
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
