#include "kvstore/page/checksum.h"

#include <array>
#include <cstring>

namespace varve::page {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78u;  // Castagnoli, reflected

constexpr std::array<std::array<uint32_t, 256>, 8> MakeTables() {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? kPolynomial : 0u);
    tables[0][i] = crc;
  }
  for (size_t t = 1; t < 8; ++t) {
    for (size_t i = 0; i < 256; ++i) {
      const uint32_t previous = tables[t - 1][i];
      tables[t][i] = (previous >> 8) ^ tables[0][previous & 255u];
    }
  }
  return tables;
}
constexpr auto kTables = MakeTables();

}  // namespace

uint32_t Crc32c(const void* data, size_t bytes, uint32_t crc) {
  const auto* p = static_cast<const uint8_t*>(data);
  uint32_t state = ~crc;
  for (; bytes >= 8; bytes -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    word ^= state;
    state = 0;
    for (size_t i = 0; i < 8; ++i) state ^= kTables[7 - i][(word >> (8 * i)) & 255u];
  }
  for (; bytes > 0; --bytes, ++p) state = (state >> 8) ^ kTables[0][(state ^ *p) & 255u];
  return ~state;
}

namespace {
// a * b modulo the polynomial, reflected: bit 31 is x^0.
uint32_t Multiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 0x80000000u; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1u) != 0 ? kPolynomial : 0u);
  }
  return product;
}
}  // namespace

uint32_t Crc32cCombine(uint32_t first, uint32_t second, size_t second_bytes) {
  // first * x^(8 n) + second; x^(8 n) by squaring.
  uint32_t factor = 0x80000000u;  // 1
  uint32_t power = 0x00800000u;   // x^8
  for (size_t n = second_bytes; n != 0; n >>= 1) {
    if ((n & 1) != 0) factor = Multiply(factor, power);
    power = Multiply(power, power);
  }
  return Multiply(first, factor) ^ second;
}

}  // namespace varve::page
