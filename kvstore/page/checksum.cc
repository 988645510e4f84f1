#include "kvstore/page/checksum.h"

#include <algorithm>
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

// What is copied before its checksum is computed from the copy: stays in the first cache.
constexpr size_t kBlockBytes = 4096;

// x^(8 * 2^k) for each k: what 2^k more bytes do to a CRC.
constexpr std::array<uint32_t, 64> kShifts = [] {
  std::array<uint32_t, 64> shifts{};
  shifts[0] = crc::kX8;
  for (size_t k = 1; k < shifts.size(); ++k) {
    shifts[k] = crc::Multiply(shifts[k - 1], shifts[k - 1]);
  }
  return shifts;
}();

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

uint32_t crc::CopyInBlocks(void* to, const void* from, size_t bytes, uint32_t crc) {
  auto* out = static_cast<uint8_t*>(to);
  const auto* in = static_cast<const uint8_t*>(from);
  for (size_t at = 0; at < bytes; at += kBlockBytes) {
    const size_t n = std::min(kBlockBytes, bytes - at);
    std::memcpy(out + at, in + at, n);
    crc = Crc32c(out + at, n, crc);
  }
  return crc;
}

uint32_t CopyWithCrc32c(void* to, const void* from, size_t bytes, uint32_t crc, CopyMode mode) {
#if defined(__x86_64__)
  if (Cpu().vpclmul512 && bytes >= kBlockBytes) {
    auto* out = static_cast<uint8_t*>(to);
    const auto* in = static_cast<const uint8_t*>(from);
    const size_t whole = bytes & ~size_t{255};
    const bool stream = mode == CopyMode::kStream && reinterpret_cast<uintptr_t>(to) % 64 == 0;
    crc = (stream ? crc::VpclmulStream : crc::VpclmulCopy)(out, in, whole, crc);
    std::memcpy(out + whole, in + whole, bytes - whole);
    return Crc32c(out + whole, bytes - whole, crc);
  }
#endif
  return crc::CopyInBlocks(to, from, bytes, crc);
}

uint32_t Crc32cCombine(uint32_t first, uint32_t second, size_t second_bytes) {
  // The initial and final XOR cancel: first * x^(8 n) + second.
  for (size_t k = 0; second_bytes >> k != 0; ++k) {
    if ((second_bytes >> k & 1) != 0) first = crc::Multiply(first, kShifts[k]);
  }
  return first ^ second;
}

}  // namespace varve::page
