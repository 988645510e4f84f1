#include "kvstore/recall/epochs.h"

#include <memory>
#include <utility>

#include "kvstore/base/hash.h"

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

absl::Status Epochs::BeginElsewhere(uint32_t first) {
  uint32_t distance = 0;
  for (const char byte : base::RandomBytes(3)) {
    distance = distance * 256 + static_cast<uint8_t>(byte);
  }
  return Begin(first + distance);
}

uint32_t Epochs::Next() {
  base::MutexLock lock(mutex_);
  const uint32_t epoch = next_++;
  if (end_ - next_ < kAhead / 2 || note_.lost()) Reserve();
  return epoch;
}

void Epochs::Reserve() {
  end_ = next_ + kAhead;
  if (!keeper_->keeps()) return;
  auto before = note_.TakeReplacedIfLost();
  if (!before.has_value()) before = std::make_shared<OwnedNote>(std::move(note_));
  store::Journal::Note note;
  note.label = EncodeLabel(EpochsNote{end_});
  note.bounded = false;
  note_ = OwnedNote(keeper_, std::move(note), *std::move(before));
}

}  // namespace varve::recall
