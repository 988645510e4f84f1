#include "kvstore/transport/host_memory.h"

#include <sys/mman.h>

#include "absl/strings/str_cat.h"
#include "kvstore/base/prefault.h"
#include "kvstore/base/status.h"

namespace varve::transport {

absl::StatusOr<HostMemory> HostMemory::Allocate(size_t bytes) {
  if (bytes == 0) return absl::InvalidArgumentError("cannot allocate 0 bytes");
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes"));
  HostMemory owned(std::span(static_cast<std::byte*>(memory), bytes));
  madvise(memory, bytes, MADV_HUGEPAGE);
  VARVE_RETURN_IF_ERROR(base::Prefault(owned.span()));
  return owned;
}

HostMemory::~HostMemory() {
  if (!memory_.empty()) munmap(memory_.data(), memory_.size());
}

}  // namespace varve::transport
