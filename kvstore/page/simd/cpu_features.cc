#include "kvstore/page/simd/cpu_features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace varve::page {
namespace {

#if defined(__x86_64__)
bool Bit(uint32_t value, int bit) { return ((value >> bit) & 1u) != 0; }

// State components that the operating system saves on a context switch.
uint64_t Xcr0() {
  uint32_t low = 0;
  uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

// Linux has a process ask for tiles, which make the saved state of its threads larger.
bool MayUseTiles() {
#if defined(__linux__)
  constexpr long kArchPrctl = 158;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  long result = kArchPrctl;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(kRequestPermission), "S"(kTileData)
               : "rcx", "r11", "memory");
  return result == 0;
#else
  return false;
#endif
}

CpuFeatures Detect() {
  CpuFeatures f;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  f.sse42 = Bit(c, 20) && Bit(c, 1);
  const bool fma_f16c = Bit(c, 12) && Bit(c, 29) && Bit(c, 28);
  const uint64_t saved = Bit(c, 27) ? Xcr0() : 0;
  const bool os_avx = (saved & 0x6) == 0x6;
  const bool os_avx512 = (saved & 0xe6) == 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
  const bool vpclmul = Bit(c, 10);
  const bool vnni = Bit(c, 11);
  const bool vbmi = Bit(c, 1);
  const bool tiles = Bit(d, 22) && Bit(d, 24) && (saved & 0x60000) == 0x60000;
  f.avx2 = os_avx && fma_f16c && Bit(b, 5);
  f.avx512 = f.avx2 && os_avx512 && Bit(b, 16) && Bit(b, 17) && Bit(b, 30) && Bit(b, 31);
  f.avx512_vnni = f.avx512 && vnni;
  f.avx512_vbmi = f.avx512_vnni && vbmi;
  f.vpclmul512 = f.avx512 && f.sse42 && vpclmul;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx512_bf16 = f.avx512 && Bit(a, 5);
  f.amx_bf16 = f.avx512_bf16 && tiles && MayUseTiles();
  return f;
}
#else
CpuFeatures Detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& Cpu() {
  static const CpuFeatures features = Detect();
  return features;
}

}  // namespace varve::page
