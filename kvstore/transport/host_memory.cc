#include "kvstore/transport/host_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"

namespace varve::transport {

absl::StatusOr<HostMemory> HostMemory::Allocate(size_t bytes) {
  if (bytes == 0) return absl::InvalidArgumentError("cannot allocate 0 bytes");
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
  HostMemory owned(std::span(static_cast<std::byte*>(memory), bytes));
  madvise(memory, bytes, MADV_HUGEPAGE);
  if (!Prefault(owned.span())) return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
  return owned;
}

HostMemory::~HostMemory() {
  if (!memory_.empty()) munmap(memory_.data(), memory_.size());
}

bool Prefault(std::span<std::byte> memory) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory.data()) & ~(page - 1);
  const uintptr_t end = reinterpret_cast<uintptr_t>(memory.data()) + memory.size();
  if (madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_WRITE) == 0) return true;
  if (errno != EINVAL) return false;
  // Kernels before 5.14 do not know that advice.
  for (uintptr_t at = begin; at < end; at += page) {
    auto* byte = reinterpret_cast<volatile char*>(at);
    *byte = *byte;
  }
  return true;
}

}  // namespace varve::transport
