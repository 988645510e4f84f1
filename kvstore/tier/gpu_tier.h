// The GPU tier: one allocation of a device's memory and slots in it.
//
// Threads: as tier.h; one thread does all copies, in the order of the calls. Host memory that CUDA
// has not pinned is copied as well, slower and one piece at a time. The destructor waits for all
// copies, so it never runs in a Done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/tier/copy_queue.h"
#include "kvstore/tier/device_memory.h"
#include "kvstore/tier/slot_table.h"
#include "kvstore/tier/tier.h"

namespace varve::tier {

struct GpuTierOptions {
  int device = 0;                        // as CUDA counts them
  uint64_t capacity_bytes = 0;           // rounded down to slot_alignment_bytes
  uint64_t slot_alignment_bytes = 4096;  // a power of two, at least 64
};

class GpuTier final : public Tier {
 public:
  // INVALID_ARGUMENT for sizes that make no sense and for a device that is not there;
  // RESOURCE_EXHAUSTED when the device has not the memory; UNAVAILABLE, saying why, without a
  // device or a driver, or when the build has no CUDA.
  static absl::StatusOr<std::unique_ptr<GpuTier>> Create(const GpuTierOptions& options);
  // memory: a multiple of slot_alignment_bytes, which is as GpuTierOptions says.
  GpuTier(std::unique_ptr<DeviceMemory> memory, uint64_t slot_alignment_bytes);

  const char* name() const override { return "gpu"; }
  TierUsage Usage() const override { return slots_.Usage(); }
  std::vector<Extent> Holes() const override { return slots_.Holes(); }

 private:
  absl::StatusOr<Slot> DoReserve(uint64_t bytes) override { return slots_.Reserve(bytes); }
  void DoFree(const Slot& slot) override { slots_.Free(slot); }
  std::span<std::byte> DoMap(const Slot& slot) override {
    return memory_->memory().subspan(slot.offset, slot.bytes);
  }
  void DoWrite(const Slot& slot, uint64_t offset, std::span<const std::byte> from,
               Done done) override;
  void DoRead(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done) override;

  const std::unique_ptr<DeviceMemory> memory_;
  SlotTable slots_;
  CopyQueue copies_;  // ends before what its callbacks use
};

}  // namespace varve::tier
