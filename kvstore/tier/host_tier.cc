#include "kvstore/tier/host_tier.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/prefault.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/tier/arena.h"
#include "kvstore/tier/memory_limit.h"
#include "kvstore/tier/slot_table.h"

namespace varve::tier {
namespace {

uint64_t RoundDown(uint64_t bytes, const HostTierOptions& options) {
  return bytes & ~(options.slot_alignment_bytes - 1);
}

absl::Status CheckMemoryFor(uint64_t bytes) {
  const MemoryLimit limit = AvailableMemory();
  if (bytes <= limit.available_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      base::FormatBytes(bytes), " do not fit: ", base::FormatBytes(limit.available_bytes),
      " are available (", limit.source, ")"));
}

// The first `to` bytes of the arena, of which `from` are in use already.
absl::Status TakeMemory(Arena& arena, uint64_t from, uint64_t to, const HostTierOptions& options,
                        const std::atomic<bool>* stop) {
  VARVE_RETURN_IF_ERROR(arena.Use(to, options.huge_pages));
  const uint32_t threads = options.prefault_threads > 0
                               ? options.prefault_threads
                               : std::clamp(std::thread::hardware_concurrency(), 1u, 8u);
  // From a page on: the page that holds the end of what is in use has been touched.
  const uint64_t page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = from & ~(page_bytes - 1);
  return base::Prefault(arena.memory().subspan(begin, to - begin), threads, stop);
}

class HostTierImpl final : public HostTier {
 public:
  // arena: as large as the tier may become, `bytes` of it in use.
  HostTierImpl(const HostTierOptions& options, Arena arena, uint64_t bytes)
      : HostTier(bytes, RoundDown(arena.memory().size(), options)),
        options_(options),
        arena_(std::move(arena)),
        slots_("host", bytes, options.slot_alignment_bytes),
        used_arena_bytes_(bytes) {}

  const char* name() const override { return "host"; }
  std::span<std::byte> memory() const override { return arena_.memory().first(capacity_bytes()); }
  absl::Status Grow(uint64_t capacity_bytes) override;
  void StopGrowing() override { stop_growing_.store(true); }
  absl::Status Shrink(uint64_t capacity_bytes) override;
  bool ReleaseBeyond() override;
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

  const HostTierOptions options_;
  Arena arena_;
  SlotTable slots_;
  // Memory that the system has given us: more than the capacity while slots lie beyond that.
  uint64_t used_arena_bytes_;
  std::atomic<bool> stop_growing_{false};
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

absl::Status HostTierImpl::Grow(uint64_t capacity_bytes) {
  const uint64_t bytes = RoundDown(capacity_bytes, options_);
  if (bytes < this->capacity_bytes() || bytes > max_capacity_bytes()) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot grow to ", base::FormatBytes(capacity_bytes), ", allowed: from ",
                     base::FormatBytes(this->capacity_bytes()), " to ",
                     base::FormatBytes(max_capacity_bytes())));
  }
  if (bytes > used_arena_bytes_) {
    absl::Status taken = CheckMemoryFor(bytes - used_arena_bytes_);
    if (taken.ok()) taken = TakeMemory(arena_, used_arena_bytes_, bytes, options_, &stop_growing_);
    if (!taken.ok()) {
      arena_.Release(used_arena_bytes_);
      return base::Annotate(taken, "host tier");
    }
    used_arena_bytes_ = bytes;
  }
  set_capacity_bytes(bytes);
  slots_.Resize(bytes);
  return absl::OkStatus();
}

absl::Status HostTierImpl::Shrink(uint64_t capacity_bytes) {
  const uint64_t bytes = RoundDown(capacity_bytes, options_);
  if (bytes == 0 || bytes > this->capacity_bytes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot shrink to ", base::FormatBytes(capacity_bytes), ", allowed: from ",
        options_.slot_alignment_bytes, " bytes to ", base::FormatBytes(this->capacity_bytes())));
  }
  set_capacity_bytes(bytes);
  slots_.Resize(bytes);
  return absl::OkStatus();
}

bool HostTierImpl::ReleaseBeyond() {
  if (slots_.Usage().beyond_bytes > 0) return false;
  used_arena_bytes_ = capacity_bytes();
  arena_.Release(used_arena_bytes_);
  return true;
}

// Addresses cost nothing, but some systems limit them.
absl::StatusOr<Arena> ReserveArena(uint64_t bytes, uint64_t max_bytes) {
  absl::StatusOr<Arena> arena = Arena::Reserve(std::max(bytes, max_bytes));
  if (arena.ok() || max_bytes <= bytes) return arena;
  base::LogWarning("the host tier cannot grow at run time: ", arena.status().message());
  return Arena::Reserve(bytes);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HostTier>> HostTier::Create(const HostTierOptions& options) {
  VARVE_RETURN_IF_ERROR(
      SlotTable::CheckSizes(options.capacity_bytes, options.slot_alignment_bytes));
  const uint64_t bytes = RoundDown(options.capacity_bytes, options);
  VARVE_RETURN_IF_ERROR(base::Annotate(CheckMemoryFor(bytes), "host tier"));
  VARVE_ASSIGN_OR_RETURN(Arena arena, ReserveArena(bytes, options.max_capacity_bytes));
  VARVE_RETURN_IF_ERROR(base::Annotate(TakeMemory(arena, 0, bytes, options, nullptr), "host tier"));
  return std::make_unique<HostTierImpl>(options, std::move(arena), bytes);
}

}  // namespace varve::tier
