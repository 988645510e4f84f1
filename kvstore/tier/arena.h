// An anonymous mapping, unmapped with its owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"

namespace varve::tier {

// Movable, not copyable.
class Arena {
 public:
  // RESOURCE_EXHAUSTED when the kernel refuses. huge_pages is a wish.
  static absl::StatusOr<Arena> Map(uint64_t bytes, bool huge_pages);
  Arena() = default;
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  std::span<std::byte> memory() const { return memory_; }

 private:
  explicit Arena(std::span<std::byte> memory) : memory_(memory) {}
  std::span<std::byte> memory_;
};

}  // namespace varve::tier
