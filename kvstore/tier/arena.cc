#include "kvstore/tier/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/base/executor.h"

namespace varve::tier {
namespace {

constexpr uint64_t kHugePageBytes = 2ull << 20;
constexpr uint64_t kStrideBytes = 64ull << 20;  // what one thread faults in at a time

// Linux 5.14; older C libraries do not name it.
constexpr int kMadvPopulateWrite = 23;

void TouchPages(std::span<std::byte> pages, uint64_t page_bytes) {
  // An atomic OR with nothing dirties the page and keeps what is there, whoever else writes.
  for (size_t at = 0; at < pages.size(); at += page_bytes) {
    auto& byte = reinterpret_cast<unsigned char&>(pages[at]);
    std::atomic_ref<unsigned char>(byte).fetch_or(0, std::memory_order_relaxed);
  }
}

// 0 or an errno.
int PopulatePages(std::span<std::byte> pages, uint64_t page_bytes) {
  if (madvise(pages.data(), pages.size(), kMadvPopulateWrite) == 0) return 0;
  if (errno == ENOMEM || errno == EFAULT || errno == EHWPOISON) return errno;
  TouchPages(pages, page_bytes);
  return 0;
}

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

absl::Status Prefault(std::span<std::byte> memory, uint32_t threads) {
  const uint64_t page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  // madvise wants whole pages: the ragged ends of a foreign arena are left to its owner.
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  const uint64_t skipped = std::min<uint64_t>((0 - address) & (page_bytes - 1), memory.size());
  const std::span<std::byte> pages =
      memory.subspan(skipped, (memory.size() - skipped) & ~(page_bytes - 1));
  std::atomic<uint64_t> next{0};
  std::atomic<int> error{0};
  const auto work = [&] {
    for (;;) {
      const uint64_t at = next.fetch_add(kStrideBytes);
      if (at >= pages.size() || error.load() != 0) return;
      const uint64_t bytes = std::min(kStrideBytes, pages.size() - at);
      const int result = PopulatePages(pages.subspan(at, bytes), page_bytes);
      if (result != 0) error.store(result);
    }
  };
  const uint64_t pieces = (pages.size() + kStrideBytes - 1) / kStrideBytes;
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < std::min<uint64_t>(threads, pieces); ++i) {
    helpers.emplace_back([&work] {
      base::NameThisThread("prefault");
      work();
    });
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (error.load() != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot fault in ", memory.size(),
                     " bytes of host memory: ", std::generic_category().message(error.load())));
  }
  return absl::OkStatus();
}

}  // namespace varve::tier
