// Memory for rows of digests and keys, which kernels read in any order. It begins at a cache line:
// a row that straddles one line more than it need takes that much longer to read (sketches of 640
// bytes, 16 bytes off, took a fifth longer). From 2 MiB on it begins at a huge page and asks for
// huge pages where the system has them, since rows read here and there miss the translation of
// their addresses each (a tenth to a sixth of the time).
#pragma once

#include <cstddef>
#include <new>

namespace varve::base {

inline constexpr size_t kCacheLineBytes = 64;
inline constexpr size_t kHugePageBytes = size_t{2} << 20;

// Null when there is no memory. Freed with FreeRows, which takes null.
std::byte* AllocateRows(size_t bytes);
void FreeRows(void* memory);

// For vectors of such memory.
template <class T>
struct RowAllocator {
  using value_type = T;

  RowAllocator() = default;
  template <class U>
  RowAllocator(const RowAllocator<U>& /*other*/) {}  // NOLINT: allocators convert

  T* allocate(size_t count) {
    std::byte* const memory = AllocateRows(count * sizeof(T));
    if (memory == nullptr) throw std::bad_alloc();
    return reinterpret_cast<T*>(memory);
  }
  void deallocate(T* p, size_t /*count*/) { FreeRows(p); }

  friend bool operator==(RowAllocator /*a*/, RowAllocator /*b*/) { return true; }
};

}  // namespace varve::base
