// CRC32C (Castagnoli, reflected, initial and final XOR 0xffffffff; RFC 3720 appendix B.4 test vectors).
//
// Thread-safe. The implementation (VPCLMULQDQ folding, SSE4.2, table) is chosen once at run time; all give the same value.
#pragma once

#include <cstddef>
#include <cstdint>

namespace varve::page {

uint32_t Crc32c(const void* data, size_t bytes, uint32_t crc = 0);

// CRC of the concatenation of two pieces, from their CRCs and the second piece's length.
uint32_t Crc32cCombine(uint32_t first, uint32_t second, size_t second_bytes);

}  // namespace varve::page
