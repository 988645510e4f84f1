#include "kvstore/page/bandwidth.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "kvstore/page/simd/cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace varve::page {
namespace {

constexpr size_t kChunk = 256;
constexpr size_t kLine = 64;

// next: what is prefetched line by line meanwhile; null: nothing.
using ReadFn = uint64_t (*)(const std::byte* memory, size_t bytes, const std::byte* next);

// Folds all whole lines into one value, so that no load can be left out.
uint64_t ReadPortable(const std::byte* memory, size_t bytes, const std::byte* next) {
  uint64_t lanes[kChunk / 8] = {};
  size_t i = 0;
  for (; i + kChunk <= bytes; i += kChunk) {
    if (next != nullptr) {
      for (size_t line = 0; line < kChunk; line += kLine) __builtin_prefetch(next + i + line);
    }
    uint64_t words[kChunk / 8];
    std::memcpy(words, memory + i, kChunk);
    for (size_t w = 0; w < kChunk / 8; ++w) lanes[w] ^= words[w];
  }
  for (; i + kLine <= bytes; i += kLine) {
    if (next != nullptr) __builtin_prefetch(next + i);
    uint64_t words[kLine / 8];
    std::memcpy(words, memory + i, kLine);
    for (size_t w = 0; w < kLine / 8; ++w) lanes[w] ^= words[w];
  }
  uint64_t total = 0;
  for (uint64_t lane : lanes) total += lane;
  return total;
}

#if defined(__x86_64__)
VARVE_TARGET_AVX512 uint64_t ReadAvx512(const std::byte* memory, size_t bytes,
                                        const std::byte* next) {
  __m512i a = _mm512_setzero_si512();
  __m512i b = a, c = a, d = a;
  size_t i = 0;
  for (; i + kChunk <= bytes; i += kChunk) {
    const std::byte* p = memory + i;
    if (next != nullptr) {
      for (size_t line = 0; line < kChunk; line += kLine) __builtin_prefetch(next + i + line);
    }
    a = _mm512_xor_si512(a, _mm512_loadu_si512(p));
    b = _mm512_xor_si512(b, _mm512_loadu_si512(p + kLine));
    c = _mm512_xor_si512(c, _mm512_loadu_si512(p + 2 * kLine));
    d = _mm512_xor_si512(d, _mm512_loadu_si512(p + 3 * kLine));
  }
  for (; i + kLine <= bytes; i += kLine) {
    if (next != nullptr) __builtin_prefetch(next + i);
    a = _mm512_xor_si512(a, _mm512_loadu_si512(memory + i));
  }
  a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
  uint64_t words[8];
  std::memcpy(words, &a, sizeof(words));
  uint64_t total = 0;
  for (uint64_t word : words) total += word;
  return total;
}
#endif

// As many chains of multiply-adds as hide the latency of one; each a vector of the widest kind.
constexpr size_t kChains = 12;

// So many steps of every chain; answers how many operations those were.
using MultiplyAddFn = double (*)(uint64_t steps);

double MultiplyAddPortable(uint64_t steps) {
  constexpr size_t kWide = 4;
  float sums[kChains][kWide] = {};
  for (uint64_t i = 0; i < steps; ++i) {
    for (auto& sum : sums) {
      for (float& x : sum) x = x * 0.5f + 1.0f;
    }
    asm volatile("" : : "r"(sums) : "memory");
  }
  return 2.0 * kChains * kWide * static_cast<double>(steps);
}

#if defined(__x86_64__)
VARVE_TARGET_AVX2 double MultiplyAddAvx2(uint64_t steps) {
  __m256 sums[kChains];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  const __m256 half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1);
  for (uint64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, half, one);
  }
  for (__m256& sum : sums) asm volatile("" : : "x"(sum));
  return 2.0 * kChains * 8 * static_cast<double>(steps);
}

VARVE_TARGET_AVX512 double MultiplyAddAvx512(uint64_t steps) {
  __m512 sums[kChains];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1);
  for (uint64_t i = 0; i < steps; ++i) {
#pragma GCC unroll 12
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, half, one);
  }
  for (__m512& sum : sums) asm volatile("" : : "v"(sum));
  return 2.0 * kChains * 16 * static_cast<double>(steps);
}
#endif

MultiplyAddFn ChooseMultiplyAdd() {
#if defined(__x86_64__)
  if (Cpu().avx512) return MultiplyAddAvx512;
  if (Cpu().avx2) return MultiplyAddAvx2;
#endif
  return MultiplyAddPortable;
}

ReadFn ChooseRead() {
#if defined(__x86_64__)
  if (Cpu().avx512) return ReadAvx512;
#endif
  return ReadPortable;
}

// GB/s of the best pass.
template <typename Pass>
double Best(size_t bytes, int repeats, Pass pass) {
  double best = 0;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    pass();
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / elapsed.count() / 1e9);
  }
  return best;
}

struct Release {
  void operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{4096}); }
};
using Buffer = std::unique_ptr<std::byte, Release>;

// Written, so that every page exists: the kernel backs untouched pages with one shared page of
// zeros.
Buffer Touched(size_t bytes, int value) {
  auto* p = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{4096}, std::nothrow));
  if (p != nullptr) std::memset(p, value, bytes);
  return Buffer(p);
}

}  // namespace

void ReadRows(std::span<const std::byte* const> rows, size_t row_bytes, size_t ahead) {
  const ReadFn read = ChooseRead();
  uint64_t total = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::byte* next = ahead == 0 ? nullptr : rows[std::min(i + ahead, rows.size() - 1)];
    total += read(rows[i], row_bytes, next);
  }
  volatile uint64_t sink = total;
  static_cast<void>(sink);
}

double ReadBandwidth(std::span<const std::byte> memory, int repeats) {
  const ReadFn read = ChooseRead();
  double best = 0;
  for (size_t ahead : {size_t{0}, size_t{1024}, size_t{4096}, size_t{8192}}) {
    best = std::max(best, Best(memory.size(), repeats, [&] {
                      volatile uint64_t sink = read(memory.data(), memory.size(),
                                                    ahead == 0 ? nullptr : memory.data() + ahead);
                      static_cast<void>(sink);
                    }));
  }
  return best;
}

double MultiplyAddRate(int repeats) {
  constexpr uint64_t kSteps = 1 << 18;
  const MultiplyAddFn run = ChooseMultiplyAdd();
  const double operations = run(1 << 10) / (1 << 10) * kSteps;
  return Best(static_cast<size_t>(operations), repeats, [&] { run(kSteps); });
}

std::optional<double> MeasureMemcpy(size_t bytes, int repeats) {
  const Buffer from = Touched(bytes, 1);
  const Buffer to = Touched(bytes, 2);
  if (from == nullptr || to == nullptr) return std::nullopt;
  return Best(bytes, repeats, [&] {
    std::memcpy(to.get(), from.get(), bytes);
    asm volatile("" : : "r"(to.get()) : "memory");
  });
}

}  // namespace varve::page
