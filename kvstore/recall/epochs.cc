#include "kvstore/recall/epochs.h"

namespace varve::recall {
namespace {

constexpr uint32_t kAhead = 1 << 14;

}  // namespace

absl::Status Epochs::Begin(uint32_t first) {
  base::MutexLock lock(mutex_);
  if (first > UINT32_MAX - 2 * kAhead) {
    return absl::ResourceExhaustedError("the epochs of contexts are used up");
  }
  next_ = first;
  Reserve();
  return absl::OkStatus();
}

uint32_t Epochs::Next() {
  base::MutexLock lock(mutex_);
  const uint32_t epoch = next_++;
  if (end_ - next_ < kAhead / 2) Reserve();
  return epoch;
}

void Epochs::Reserve() {
  end_ = next_ + kAhead;
  if (!keeper_->keeps()) return;
  // The note before it is discarded after this one is written.
  note_ = OwnedNote(keeper_, keeper_->Write(EncodeLabel(EpochsNote{end_}), ""));
}

}  // namespace varve::recall
