#include "kvstore/tier/host_tier.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/prefault.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/tier/arena.h"
#include "kvstore/tier/memory_limit.h"
#include "kvstore/tier/slot_table.h"

namespace varve::tier {
namespace {

class HostTierImpl final : public HostTier {
 public:
  HostTierImpl(Arena arena, uint64_t bytes, uint64_t alignment_bytes)
      : HostTier(bytes), arena_(std::move(arena)), slots_("host", bytes, alignment_bytes) {}

  const char* name() const override { return "host"; }
  std::span<std::byte> memory() const override { return arena_.memory(); }
  TierUsage Usage() const override { return slots_.Usage(); }
  std::vector<Extent> Holes() const override { return slots_.Holes(); }

 private:
  absl::StatusOr<Slot> DoReserve(uint64_t bytes) override { return slots_.Reserve(bytes); }
  void DoFree(const Slot& slot) override { slots_.Free(slot); }
  std::span<std::byte> DoMap(const Slot& slot) override {
    return arena_.memory().subspan(slot.offset, slot.bytes);
  }
  void DoWrite(const Slot& slot, uint64_t offset, std::span<const std::byte> from,
               Done done) override;
  void DoRead(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done) override;

  const Arena arena_;
  SlotTable slots_;
};

void HostTierImpl::DoWrite(const Slot& slot, uint64_t offset, std::span<const std::byte> from,
                           Done done) {
  if (!from.empty()) std::memcpy(DoMap(slot).data() + offset, from.data(), from.size());
  std::move(done)(absl::OkStatus());
}

void HostTierImpl::DoRead(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done) {
  if (!to.empty()) std::memcpy(to.data(), DoMap(slot).data() + offset, to.size());
  std::move(done)(absl::OkStatus());
}

absl::Status CheckMemoryFor(uint64_t bytes) {
  const MemoryLimit limit = AvailableMemory();
  if (bytes <= limit.available_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "host tier of ", base::FormatBytes(bytes), " does not fit: ",
      base::FormatBytes(limit.available_bytes), " are available (", limit.source, ")"));
}

uint32_t PrefaultThreads(uint32_t asked) {
  return asked > 0 ? asked : std::clamp(std::thread::hardware_concurrency(), 1u, 8u);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::Create(const HostTierOptions& options) {
  VARVE_RETURN_IF_ERROR(
      SlotTable::CheckSizes(options.capacity_bytes, options.slot_alignment_bytes));
  const uint64_t bytes = options.capacity_bytes & ~(options.slot_alignment_bytes - 1);
  VARVE_RETURN_IF_ERROR(CheckMemoryFor(bytes));
  VARVE_ASSIGN_OR_RETURN(Arena arena, Arena::Map(bytes, options.huge_pages));
  VARVE_RETURN_IF_ERROR(base::Annotate(
      base::Prefault(arena.memory(), PrefaultThreads(options.prefault_threads)), "host tier"));
  return std::make_unique<HostTierImpl>(std::move(arena), bytes, options.slot_alignment_bytes);
}

}  // namespace varve::tier
