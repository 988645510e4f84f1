#include "kvstore/store/staging.h"

namespace varve::store {

std::span<std::byte> Staging::Buffer::memory() const {
  tier::Slot whole = slot_;
  whole.bytes = slot_.extent_bytes;
  return from_->memory_->Map(whole);
}

void Staging::Take(uint64_t bytes, Ready ready) {
  absl::StatusOr<tier::Slot> slot = absl::UnavailableError("others wait");
  {
    base::MutexLock lock(mutex_);
    if (waiting_.empty()) slot = memory_->Reserve(bytes);
    if (!slot.ok()) {
      waiting_.push_back({bytes, std::move(ready)});
      return;
    }
  }
  std::move(ready)(Buffer(this, *slot));
}

void Staging::GiveBack(const tier::Slot& slot) {
  std::vector<std::pair<Ready, tier::Slot>> served;
  {
    base::MutexLock lock(mutex_);
    memory_->Free(slot);
    while (!waiting_.empty()) {
      const absl::StatusOr<tier::Slot> next = memory_->Reserve(waiting_.front().bytes);
      if (!next.ok()) break;
      served.emplace_back(std::move(waiting_.front().ready), *next);
      waiting_.pop_front();
    }
  }
  for (auto& [ready, next] : served) std::move(ready)(Buffer(this, next));
}

}  // namespace varve::store
