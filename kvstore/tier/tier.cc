#include "kvstore/tier/tier.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace varve::tier {

bool Tier::Contains(const Slot& slot) const {
  return slot.bytes > 0 && slot.offset < max_capacity_bytes_ &&
         slot.bytes <= max_capacity_bytes_ - slot.offset;
}

absl::Status Tier::CheckAccess(const Slot& slot, uint64_t offset, uint64_t bytes) const {
  if (!Contains(slot)) {
    return absl::OutOfRangeError(absl::StrCat("slot of ", slot.bytes, " bytes at ", slot.offset,
                                              " is not inside the ", name(), " tier of ",
                                              capacity_bytes(), " bytes"));
  }
  if (offset > slot.bytes || bytes > slot.bytes - offset) {
    return absl::OutOfRangeError(absl::StrCat(bytes, " bytes at offset ", offset,
                                              " do not fit a slot of ", slot.bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Slot> Tier::Reserve(uint64_t bytes) {
  const uint64_t capacity = capacity_bytes();
  if (bytes == 0 || bytes > capacity) {
    return absl::InvalidArgumentError(absl::StrCat("cannot reserve ", bytes, " bytes in the ",
                                                   name(), " tier, allowed: 1..", capacity));
  }
  return DoReserve(bytes);
}

void Tier::Free(const Slot& slot) { DoFree(slot); }

std::span<std::byte> Tier::Map(const Slot& slot) {
  return Contains(slot) ? DoMap(slot) : std::span<std::byte>();
}

void Tier::Write(const Slot& slot, uint64_t offset, std::span<const std::byte> from, Done done) {
  if (absl::Status status = CheckAccess(slot, offset, from.size()); !status.ok()) {
    std::move(done)(std::move(status));
    return;
  }
  DoWrite(slot, offset, from, std::move(done));
}

void Tier::Read(const Slot& slot, uint64_t offset, std::span<std::byte> to, Done done) {
  if (absl::Status status = CheckAccess(slot, offset, to.size()); !status.ok()) {
    std::move(done)(std::move(status));
    return;
  }
  DoRead(slot, offset, to, std::move(done));
}

}  // namespace varve::tier
