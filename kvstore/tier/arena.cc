#include "kvstore/tier/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/row_memory.h"
#include "kvstore/base/status.h"

namespace varve::tier {
namespace {

uint64_t PageBytes() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }
uint64_t RoundUp(uint64_t bytes) { return (bytes + PageBytes() - 1) & ~(PageBytes() - 1); }

absl::Status Refused(uint64_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat(
      "cannot map ", bytes, " bytes of host memory: ", std::generic_category().message(errno)));
}

}  // namespace

absl::StatusOr<Arena> Arena::Map(uint64_t bytes, bool huge_pages) {
  VARVE_ASSIGN_OR_RETURN(Arena arena, Reserve(bytes));
  VARVE_RETURN_IF_ERROR(arena.Use(bytes, huge_pages));
  return arena;
}

absl::StatusOr<Arena> Arena::Reserve(uint64_t bytes) {
  // What may not be touched is in no account of the kernel's, and in no core file.
  void* memory =
      mmap(nullptr, RoundUp(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return Refused(bytes);
  return Arena(std::span(static_cast<std::byte*>(memory), RoundUp(bytes)));
}

absl::Status Arena::Use(uint64_t bytes, bool huge_pages) {
  const uint64_t rounded = RoundUp(bytes);
  if (mprotect(memory_.data(), rounded, PROT_READ | PROT_WRITE) != 0) return Refused(bytes);
  // Advice only: a kernel without huge pages serves small ones.
  if (huge_pages && rounded >= base::kHugePageBytes)
    madvise(memory_.data(), rounded, MADV_HUGEPAGE);
  return absl::OkStatus();
}

void Arena::Release(uint64_t offset) {
  const uint64_t from = RoundUp(offset);
  if (from < memory_.size()) madvise(memory_.data() + from, memory_.size() - from, MADV_DONTNEED);
}

Arena::Arena(Arena&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(memory_, other.memory_);
  return *this;
}

Arena::~Arena() {
  if (!memory_.empty()) munmap(memory_.data(), memory_.size());
}

}  // namespace varve::tier
