// An anonymous mapping, unmapped with its owner, and the pre-faulting of any memory.
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

// Makes every page present without changing its content, by `threads` threads. RESOURCE_EXHAUSTED
// when the kernel has no memory for it (where it can say so: Linux 5.14 and later).
absl::Status Prefault(std::span<std::byte> memory, uint32_t threads);

}  // namespace varve::tier
