#include "kvstore/tier/gpu_tier.h"

#include <utility>

#include "kvstore/base/status.h"

namespace varve::tier {

GpuTier::GpuTier(std::unique_ptr<DeviceMemory> memory, uint64_t slot_alignment_bytes)
    : Tier(memory->memory().size()),
      memory_(std::move(memory)),
      slots_("gpu", capacity_bytes(), slot_alignment_bytes),
      copies_(memory_.get()) {}

absl::StatusOr<std::unique_ptr<GpuTier>> GpuTier::Create(const GpuTierOptions& options) {
  const uint64_t alignment = options.slot_alignment_bytes;
  VARVE_RETURN_IF_ERROR(SlotTable::CheckSizes(options.capacity_bytes, alignment));
  auto memory = ReserveCudaMemory(options.device, options.capacity_bytes & ~(alignment - 1));
  if (!memory.ok()) return base::Annotate(memory.status(), "gpu tier");
  return std::make_unique<GpuTier>(*std::move(memory), alignment);
}

void GpuTier::DoWrite(const Slot& slot, uint64_t offset, std::span<const std::byte> from,
                      Done done) {
  copies_.Write(slot.offset + offset, from, std::move(done));
}

void GpuTier::DoRead(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done) {
  copies_.Read(slot.offset + offset, to, std::move(done));
}

}  // namespace varve::tier
