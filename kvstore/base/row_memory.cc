#include "kvstore/base/row_memory.h"

#include <sys/mman.h>

#include <cstdlib>

namespace varve::base {

std::byte* AllocateRows(size_t bytes) {
  const bool huge = bytes >= kHugePageBytes;
  void* memory = nullptr;
  if (posix_memalign(&memory, huge ? kHugePageBytes : kCacheLineBytes, bytes) != 0) return nullptr;
  // Whole huge pages alone: the rest of one more would take memory for nothing. Refused means small
  // pages.
  if (huge) madvise(memory, bytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
  return static_cast<std::byte*>(memory);
}

void FreeRows(void* memory) { std::free(memory); }

}  // namespace varve::base
