// Anonymous memory of this process, zeroed and pre-faulted. RAII, movable.
#pragma once

#include <cstddef>
#include <span>
#include <utility>

#include "absl/status/statusor.h"

namespace varve::transport {

class HostMemory {
 public:
  HostMemory() = default;
  // INVALID_ARGUMENT for 0 bytes, RESOURCE_EXHAUSTED when the system has not that much.
  static absl::StatusOr<HostMemory> Allocate(size_t bytes);
  ~HostMemory();
  HostMemory(HostMemory&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}
  HostMemory& operator=(HostMemory&& other) noexcept {
    std::swap(memory_, other.memory_);
    return *this;
  }

  std::span<std::byte> span() const { return memory_; }

 private:
  explicit HostMemory(std::span<std::byte> memory) : memory_(memory) {}

  std::span<std::byte> memory_;
};

}  // namespace varve::transport
