// Memory for what is read from disk on its way to a client. Whoever finds none free waits in line.
//
// Thread-safe. Outlives its buffers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/tier.h"

namespace varve::store {

class Staging {
 public:
  // A piece of the memory, given back with its owner. Movable.
  class Buffer {
   public:
    Buffer() = default;
    Buffer(Buffer&& other) noexcept { *this = std::move(other); }
    Buffer& operator=(Buffer&& other) noexcept {
      std::swap(from_, other.from_);
      std::swap(slot_, other.slot_);
      return *this;
    }
    ~Buffer() {
      if (from_ != nullptr) from_->GiveBack(slot_);
    }
    // As large as asked for, rounded up to the memory's alignment.
    std::span<std::byte> memory() const;

   private:
    friend class Staging;
    Buffer(Staging* from, const tier::Slot& slot) : from_(from), slot_(slot) {}
    Staging* from_ = nullptr;
    tier::Slot slot_;
  };
  using Ready = absl::AnyInvocable<void(Buffer) &&>;

  // memory must outlive this.
  explicit Staging(tier::Tier* memory) : memory_(memory) {}

  uint64_t capacity_bytes() const { return memory_->capacity_bytes(); }
  // Calls ready, now or on the thread of whoever gives memory back; in the order asked. REQUIRES:
  // 0 < bytes <= capacity_bytes().
  void Take(uint64_t bytes, Ready ready);

 private:
  struct Waiting {
    uint64_t bytes = 0;
    Ready ready;
  };
  void GiveBack(const tier::Slot& slot);

  tier::Tier* const memory_;
  base::Mutex mutex_;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::store
