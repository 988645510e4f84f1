// Anonymous memory at an address that does not change, of a size that may: unmapped with its owner.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::tier {

// Movable, not copyable.
class Arena {
 public:
  // All of it may be touched. RESOURCE_EXHAUSTED when the kernel refuses. huge_pages is a wish.
  static absl::StatusOr<Arena> Map(uint64_t bytes, bool huge_pages);
  // Addresses for so many bytes, none of which may be touched before Use. RESOURCE_EXHAUSTED when
  // the kernel refuses.
  static absl::StatusOr<Arena> Reserve(uint64_t bytes);
  Arena() = default;
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  // The first `bytes` may be touched from now on. Errors and wishes as above.
  absl::Status Use(uint64_t bytes, bool huge_pages);
  // Gives what lies from `offset` on back to the kernel. It reads as zeros from then on, and
  // whoever touches it takes it again: a late read of somebody else's must not kill the process.
  void Release(uint64_t offset);

  // All that is reserved.
  std::span<std::byte> memory() const { return memory_; }

 private:
  explicit Arena(std::span<std::byte> memory) : memory_(memory) {}
  std::span<std::byte> memory_;
};

}  // namespace varve::tier
