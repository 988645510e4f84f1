// For vectors whose memory begins at a cache line, as rows of digests and keys should: a row that
// straddles one line more than it need takes a kernel that much longer to read (sketches of 640
// bytes, 16 bytes off, took a fifth longer).
#pragma once

#include <cstddef>
#include <new>

namespace varve::page {

inline constexpr std::align_val_t kCacheLine{64};

template <class T>
struct CacheLineAllocator {
  using value_type = T;

  CacheLineAllocator() = default;
  template <class U>
  CacheLineAllocator(const CacheLineAllocator<U>& /*other*/) {}  // NOLINT: allocators convert

  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), kCacheLine));
  }
  void deallocate(T* p, size_t /*count*/) { ::operator delete(p, kCacheLine); }

  friend bool operator==(CacheLineAllocator /*a*/, CacheLineAllocator /*b*/) { return true; }
};

}  // namespace varve::page
