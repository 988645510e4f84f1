// CRC32C polynomial arithmetic and its instruction-set versions. Internal to page.
//
// Polynomials are reflected: bit 31 of a uint32_t is the coefficient of x^0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace varve::page::crc {

constexpr uint32_t kPolynomial = 0x82f63b78u;  // Castagnoli
constexpr uint32_t kOne = 0x80000000u;         // x^0
constexpr uint32_t kX8 = 0x00800000u;

// a * b modulo the polynomial.
constexpr uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1u) != 0 ? kPolynomial : 0u);
  }
  return product;
}

// base^n modulo the polynomial.
constexpr uint32_t Power(uint32_t base, size_t n) {
  uint32_t result = kOne;
  for (; n != 0; n >>= 1) {
    if ((n & 1) != 0) result = Multiply(result, base);
    base = Multiply(base, base);
  }
  return result;
}

// As CopyWithCrc32c, block by block.
uint32_t CopyInBlocks(void* to, const void* from, size_t bytes, uint32_t crc);

#if defined(__x86_64__)
uint32_t Sse42(const void* data, size_t bytes, uint32_t crc);
uint32_t Vpclmul(const void* data, size_t bytes, uint32_t crc);
// As CopyWithCrc32c. REQUIRES: bytes is a multiple of 256, at least 256; Stream: `to` is aligned
// to 64.
uint32_t VpclmulCopy(void* to, const void* from, size_t bytes, uint32_t crc);
uint32_t VpclmulStream(void* to, const void* from, size_t bytes, uint32_t crc);
#endif

}  // namespace varve::page::crc
