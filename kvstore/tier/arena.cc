#include "kvstore/tier/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace varve::tier {
namespace {

constexpr uint64_t kHugePageBytes = 2ull << 20;

}  // namespace

absl::StatusOr<Arena> Arena::Map(uint64_t bytes, bool huge_pages) {
  const uint64_t page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t rounded = (bytes + page_bytes - 1) & ~(page_bytes - 1);
  void* memory = mmap(nullptr, rounded, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot map ", bytes, " bytes of host memory: ", std::generic_category().message(errno)));
  }
  // Advice only: a kernel without huge pages serves small ones.
  if (huge_pages && rounded >= kHugePageBytes) madvise(memory, rounded, MADV_HUGEPAGE);
  return Arena(std::span(static_cast<std::byte*>(memory), rounded));
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
