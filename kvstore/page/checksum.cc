#include "kvstore/page/checksum.h"

#include <array>
#include <cstring>

#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/crc32c.h"

namespace varve::page {
namespace {

using Tables = std::array<std::array<uint32_t, 256>, 8>;

// tables[k][b]: the CRC state that byte b leaves after k more zero bytes.
constexpr Tables MakeTables() {
  Tables tables{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc >> 1) ^ ((crc & 1u) != 0 ? crc::kPolynomial : 0u);
    }
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
constexpr Tables kTables = MakeTables();

uint32_t TableCrc(const void* data, size_t bytes, uint32_t crc) {
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

struct Impls {
  std::array<Crc32cImpl, 3> impls{};
  size_t count = 0;
};

Impls ListImpls() {
  Impls list;
#if defined(__x86_64__)
  if (Cpu().vpclmul512) list.impls[list.count++] = {"vpclmulqdq", crc::Vpclmul};
  if (Cpu().sse42) list.impls[list.count++] = {"sse4.2", crc::Sse42};
#endif
  list.impls[list.count++] = {"table", TableCrc};
  return list;
}

}  // namespace

std::span<const Crc32cImpl> Crc32cImpls() {
  static const Impls list = ListImpls();
  return {list.impls.data(), list.count};
}

uint32_t Crc32c(const void* data, size_t bytes, uint32_t crc) {
  static const Crc32cFn best = Crc32cImpls().front().fn;
  return best(data, bytes, crc);
}

uint32_t Crc32cCombine(uint32_t first, uint32_t second, size_t second_bytes) {
  // The initial and final XOR cancel: first * x^(8 n) + second.
  return crc::Multiply(first, crc::Power(crc::kX8, second_bytes)) ^ second;
}

}  // namespace varve::page
