#include "kvstore/tier/host_tier.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/prefault.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/tier/arena.h"
#include "kvstore/tier/memory_limit.h"
#include "kvstore/tier/slot_allocator.h"

namespace varve::tier {
namespace {

class HostTierImpl final : public HostTier {
 public:
  HostTierImpl(Arena arena, uint64_t bytes, uint64_t alignment_bytes)
      : HostTier(bytes), arena_(std::move(arena)), allocator_(bytes, alignment_bytes) {}

  const char* name() const override { return "host"; }
  TierUsage Usage() const override;
  std::vector<Extent> Holes() const override;

 private:
  absl::StatusOr<Slot> DoReserve(uint64_t bytes) override;
  void DoFree(const Slot& slot) override;
  std::span<std::byte> DoMap(const Slot& slot) override {
    return arena_.memory().subspan(slot.offset, slot.bytes);
  }
  void DoWrite(const Slot& slot, uint64_t offset, std::span<const std::byte> from,
               Done done) override;
  void DoRead(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done) override;

  const Arena arena_;
  mutable base::Mutex mutex_;
  SlotAllocator allocator_ ABSL_GUARDED_BY(mutex_);
  uint64_t rejected_frees_ ABSL_GUARDED_BY(mutex_) = 0;
};

TierUsage HostTierImpl::Usage() const {
  base::MutexLock lock(mutex_);
  return TierUsage{.capacity_bytes = allocator_.capacity_bytes(),
                   .used_bytes = allocator_.used_bytes(),
                   .largest_free_bytes = allocator_.largest_free_bytes(),
                   .slots = allocator_.slots(),
                   .rejected_frees = rejected_frees_};
}

std::vector<Tier::Extent> HostTierImpl::Holes() const {
  base::MutexLock lock(mutex_);
  std::vector<Extent> holes;
  holes.reserve(allocator_.holes().size());
  for (const auto& [offset, bytes] : allocator_.holes()) holes.push_back({offset, bytes});
  return holes;
}

absl::StatusOr<Slot> HostTierImpl::DoReserve(uint64_t bytes) {
  std::variant<Slot, SlotAllocator::Lack> result;
  {
    base::MutexLock lock(mutex_);
    result = allocator_.Reserve(bytes);
  }
  if (const Slot* slot = std::get_if<Slot>(&result)) return *slot;
  const auto& lack = std::get<SlotAllocator::Lack>(result);
  return absl::ResourceExhaustedError(absl::StrCat(
      "host tier has no hole of ", lack.wanted_bytes, " bytes: ", lack.free_bytes, " of ",
      capacity_bytes(), " bytes are free, the largest hole has ", lack.largest_free_bytes));
}

void HostTierImpl::DoFree(const Slot& slot) {
  {
    base::MutexLock lock(mutex_);
    if (allocator_.Free(slot)) return;
    ++rejected_frees_;
  }
  base::LogError("host tier: ignored the free of a slot that is not reserved: ", slot.bytes,
                 " bytes at ", slot.offset, ", generation ", slot.generation);
}

void HostTierImpl::DoWrite(const Slot& slot, uint64_t offset, std::span<const std::byte> from,
                           Done done) {
  if (!from.empty()) std::memcpy(DoMap(slot).data() + offset, from.data(), from.size());
  std::move(done)(absl::OkStatus());
}

void HostTierImpl::DoRead(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done) {
  if (!to.empty()) std::memcpy(to.data(), DoMap(slot).data() + offset, to.size());
  std::move(done)(absl::OkStatus());
}

absl::Status Validate(const HostTierOptions& options) {
  const uint64_t alignment = options.slot_alignment_bytes;
  if (!std::has_single_bit(alignment) || alignment < 64) {
    return absl::InvalidArgumentError(absl::StrCat("slot_alignment_bytes is ", alignment,
                                                   ", allowed: a power of two of at least 64"));
  }
  if (options.capacity_bytes < alignment) {
    return absl::InvalidArgumentError(absl::StrCat("capacity_bytes is ", options.capacity_bytes,
                                                   ", allowed: at least ", alignment));
  }
  return absl::OkStatus();
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
  VARVE_RETURN_IF_ERROR(Validate(options));
  const uint64_t bytes = options.capacity_bytes & ~(options.slot_alignment_bytes - 1);
  VARVE_RETURN_IF_ERROR(CheckMemoryFor(bytes));
  VARVE_ASSIGN_OR_RETURN(Arena arena, Arena::Map(bytes, options.huge_pages));
  VARVE_RETURN_IF_ERROR(base::Annotate(
      base::Prefault(arena.memory(), PrefaultThreads(options.prefault_threads)), "host tier"));
  return std::make_unique<HostTierImpl>(std::move(arena), bytes, options.slot_alignment_bytes);
}

}  // namespace varve::tier
