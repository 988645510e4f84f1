// CRC32C (Castagnoli, reflected, initial and final XOR 0xffffffff; RFC 3720 appendix B.4 test
// vectors).
//
// Thread-safe. The implementation (VPCLMULQDQ folding, SSE4.2, table) is chosen once at run time;
// all give the same value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace varve::page {

// CRC of data appended to what `crc` is the CRC of; crc 0 starts.
uint32_t Crc32c(const void* data, size_t bytes, uint32_t crc = 0);

// kStream: the copy goes around the cache, where that is faster; nobody reads it soon.
enum class CopyMode { kCache, kStream };
// Copies, and answers what Crc32c(to, bytes, crc) is then: in one pass, so that it holds even if
// somebody writes to `from` meanwhile.
uint32_t CopyWithCrc32c(void* to, const void* from, size_t bytes, uint32_t crc, CopyMode mode);

// CRC of the concatenation of two pieces, from their CRCs and the second piece's length.
uint32_t Crc32cCombine(uint32_t first, uint32_t second, size_t second_bytes);

// Named implementations available on this CPU, for tests and benchmarks; the first is the one
// Crc32c uses.
using Crc32cFn = uint32_t (*)(const void* data, size_t bytes, uint32_t crc);
struct Crc32cImpl {
  std::string_view name;
  Crc32cFn fn;
};
std::span<const Crc32cImpl> Crc32cImpls();

}  // namespace varve::page
