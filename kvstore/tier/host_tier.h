// The host-memory tier: one arena and slots in it.
//
// Threads: as tier.h. The arena's address and size never change. It is plain memory, touched at
// start; what of it a transport must know, the transport registers itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/statusor.h"
#include "kvstore/tier/tier.h"

namespace varve::tier {

struct HostTierOptions {
  uint64_t capacity_bytes = 0;           // rounded down to slot_alignment_bytes
  bool huge_pages = false;               // transparent huge pages, where the kernel has them
  uint64_t slot_alignment_bytes = 4096;  // a power of two, at least 64
  uint32_t prefault_threads = 0;  // touch every page at start; 0: one thread per core, at most 8
};

class HostTier : public Tier {
 public:
  // INVALID_ARGUMENT for sizes that make no sense; RESOURCE_EXHAUSTED, naming the limit, when the
  // machine or the process's cgroup does not have the memory. Pages are touched now, so that no
  // transfer pays for page faults.
  static absl::StatusOr<std::unique_ptr<HostTier>> Create(const HostTierOptions& options);

  // All of it.
  virtual std::span<std::byte> memory() const = 0;

 protected:
  using Tier::Tier;
};

}  // namespace varve::tier
