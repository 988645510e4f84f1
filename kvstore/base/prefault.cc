#include "kvstore/base/prefault.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/base/executor.h"

namespace varve::base {
namespace {

constexpr uint64_t kStrideBytes = 64ull << 20;  // what one thread faults in at a time

// Linux 5.14; older C libraries do not name it.
constexpr int kMadvPopulateWrite = 23;

// 0 or an errno.
int PopulatePages(std::span<std::byte> pages, uint64_t page_bytes) {
  if (madvise(pages.data(), pages.size(), kMadvPopulateWrite) == 0) return 0;
  if (errno != EINVAL) return errno;
  // An older kernel. An atomic OR with nothing dirties the page and keeps what is there, whoever
  // else writes.
  for (size_t at = 0; at < pages.size(); at += page_bytes) {
    auto& byte = reinterpret_cast<unsigned char&>(pages[at]);
    std::atomic_ref<unsigned char>(byte).fetch_or(0, std::memory_order_relaxed);
  }
  return 0;
}

}  // namespace

absl::Status Prefault(std::span<std::byte> memory, uint32_t threads,
                      const std::atomic<bool>* stop) {
  const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  std::atomic<uint64_t> next{0};
  std::atomic<int> error{0};
  const auto work = [&] {
    for (;;) {
      const uint64_t at = next.fetch_add(kStrideBytes);
      if (at >= memory.size() || error.load() != 0) return;
      if (stop != nullptr && stop->load()) return error.store(ECANCELED);
      const uint64_t bytes = std::min(kStrideBytes, memory.size() - at);
      const int result = PopulatePages(memory.subspan(at, bytes), page_bytes);
      if (result != 0) error.store(result);
    }
  };
  const uint64_t strides = (memory.size() + kStrideBytes - 1) / kStrideBytes;
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < std::min<uint64_t>(threads, strides); ++i) {
    helpers.emplace_back([&work] {
      NameThisThread("prefault");
      work();
    });
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (error.load() == 0) return absl::OkStatus();
  if (error.load() == ECANCELED) return absl::CancelledError("told to stop");
  return absl::ResourceExhaustedError(absl::StrCat(
      "no memory for ", memory.size(), " bytes: ", std::generic_category().message(error.load())));
}

}  // namespace varve::base
