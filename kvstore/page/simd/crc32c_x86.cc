#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/crc32c.h"

#if defined(__x86_64__)
// GCC 12 takes the deliberately undefined pass-through operand of its own intrinsics for a mistake
// (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include <cstring>

namespace varve::page::crc {
namespace {

VARVE_TARGET_SSE42 uint64_t Word(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, 8);
  return word;
}

// The state after `bytes` bytes, one instruction after another.
VARVE_TARGET_SSE42 uint32_t Serial(const uint8_t* p, size_t bytes, uint32_t state) {
  uint64_t wide = state;
  for (; bytes >= 8; bytes -= 8, p += 8) wide = _mm_crc32_u64(wide, Word(p));
  auto narrow = static_cast<uint32_t>(wide);
  for (; bytes > 0; --bytes, ++p) narrow = _mm_crc32_u8(narrow, *p);
  return narrow;
}

// The instruction has a latency of three cycles and a throughput of one: three independent thirds
// of a block keep it busy, and two multiplications join them.
template <size_t kThird>
VARVE_TARGET_SSE42 uint32_t ThreeWay(const uint8_t*& p, size_t& bytes, uint32_t state) {
  constexpr uint32_t kShift = Power(kX8, kThird);
  while (bytes >= 3 * kThird) {
    uint64_t a = state, b = 0, c = 0;
    for (size_t i = 0; i < kThird; i += 8) {
      a = _mm_crc32_u64(a, Word(p + i));
      b = _mm_crc32_u64(b, Word(p + kThird + i));
      c = _mm_crc32_u64(c, Word(p + 2 * kThird + i));
    }
    const uint32_t ab = Multiply(static_cast<uint32_t>(a), kShift) ^ static_cast<uint32_t>(b);
    state = Multiply(ab, kShift) ^ static_cast<uint32_t>(c);
    p += 3 * kThird;
    bytes -= 3 * kThird;
  }
  return state;
}

// Multiplies 128 bits of message by x^kBits, in a form that is again 128 bits wide: the low half
// (the earlier bytes) by x^(kBits + 32), the high half by x^(kBits - 32); the carry-less product of
// two reflected words stands one bit low, which the shifted constants make up for.
constexpr uint64_t FoldLow(size_t bits) { return uint64_t{Power(kOne >> 1, bits + 32)} << 1; }
constexpr uint64_t FoldHigh(size_t bits) { return uint64_t{Power(kOne >> 1, bits - 32)} << 1; }

template <size_t kBits>
VARVE_TARGET_VPCLMUL __m512i Fold(__m512i x, __m512i next) {
  constexpr uint64_t kLow = FoldLow(kBits);
  constexpr uint64_t kHigh = FoldHigh(kBits);
  const __m512i k = _mm512_broadcast_i32x4(
      _mm_set_epi64x(static_cast<int64_t>(kHigh), static_cast<int64_t>(kLow)));
  const __m512i low = _mm512_clmulepi64_epi128(x, k, 0x00);
  const __m512i high = _mm512_clmulepi64_epi128(x, k, 0x11);
  return _mm512_ternarylogic_epi64(low, high, next, 0x96);
}

VARVE_TARGET_VPCLMUL __m128i FoldLane(__m128i x, __m128i next) {
  constexpr uint64_t kLow = FoldLow(128);
  constexpr uint64_t kHigh = FoldHigh(128);
  const __m128i k = _mm_set_epi64x(static_cast<int64_t>(kHigh), static_cast<int64_t>(kLow));
  const __m128i low = _mm_clmulepi64_si128(x, k, 0x00);
  const __m128i high = _mm_clmulepi64_si128(x, k, 0x11);
  return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

// The state after the 64 bytes of message that x stands for.
VARVE_TARGET_VPCLMUL uint32_t Reduce(__m512i x) {
  __m128i lane = _mm512_castsi512_si128(x);
  lane = FoldLane(lane, _mm512_extracti32x4_epi32(x, 1));
  lane = FoldLane(lane, _mm512_extracti32x4_epi32(x, 2));
  lane = FoldLane(lane, _mm512_extracti32x4_epi32(x, 3));
  uint8_t bytes[16];
  std::memcpy(bytes, &lane, sizeof(bytes));
  return Serial(bytes, sizeof(bytes), 0);
}

// How far ahead of the folding the bytes are asked for: across the end of a page, where the
// hardware's prefetcher stops.
constexpr size_t kPrefetchBytes = 4096;

// 256 bytes of message.
struct Quad {
  __m512i a, b, c, d;
};

VARVE_TARGET_VPCLMUL inline Quad Load(const uint8_t* p) {
  for (size_t line = 0; line < 256; line += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes + line), _MM_HINT_T0);
  }
  return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64), _mm512_loadu_si512(p + 128),
          _mm512_loadu_si512(p + 192)};
}

VARVE_TARGET_VPCLMUL inline void Store(uint8_t* q, const Quad& quad) {
  _mm512_storeu_si512(q, quad.a);
  _mm512_storeu_si512(q + 64, quad.b);
  _mm512_storeu_si512(q + 128, quad.c);
  _mm512_storeu_si512(q + 192, quad.d);
}

VARVE_TARGET_VPCLMUL inline void Stream(uint8_t* q, const Quad& quad) {
  auto* to = reinterpret_cast<__m512i*>(q);
  _mm512_stream_si512(to, quad.a);
  _mm512_stream_si512(to + 1, quad.b);
  _mm512_stream_si512(to + 2, quad.c);
  _mm512_stream_si512(to + 3, quad.d);
}

// Four strands of folding, each over every fourth 64 bytes.
class Folding {
 public:
  VARVE_TARGET_VPCLMUL Folding(const Quad& first, uint32_t crc) : x_(first) {
    x_.a =
        _mm512_xor_si512(x_.a, _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(~crc))));
  }
  VARVE_TARGET_VPCLMUL void Add(const Quad& next) {
    x_.a = Fold<2048>(x_.a, next.a);
    x_.b = Fold<2048>(x_.b, next.b);
    x_.c = Fold<2048>(x_.c, next.c);
    x_.d = Fold<2048>(x_.d, next.d);
  }
  VARVE_TARGET_VPCLMUL __m512i Join() const {
    return Fold<512>(Fold<512>(Fold<512>(x_.a, x_.b), x_.c), x_.d);
  }

 private:
  Quad x_;
};

}  // namespace

VARVE_TARGET_SSE42 uint32_t Sse42(const void* data, size_t bytes, uint32_t crc) {
  const auto* p = static_cast<const uint8_t*>(data);
  uint32_t state = ~crc;
  state = ThreeWay<4096>(p, bytes, state);
  state = ThreeWay<256>(p, bytes, state);
  return ~Serial(p, bytes, state);
}

VARVE_TARGET_VPCLMUL uint32_t Vpclmul(const void* data, size_t bytes, uint32_t crc) {
  if (bytes < 512) return Sse42(data, bytes, crc);
  const auto* p = static_cast<const uint8_t*>(data);
  Folding folding(Load(p), crc);
  for (p += 256, bytes -= 256; bytes >= 256; bytes -= 256, p += 256) folding.Add(Load(p));
  __m512i x = folding.Join();
  for (; bytes >= 64; bytes -= 64, p += 64) x = Fold<512>(x, _mm512_loadu_si512(p));
  return ~Serial(p, bytes, Reduce(x));
}

VARVE_TARGET_VPCLMUL uint32_t VpclmulCopy(void* to, const void* from, size_t bytes, uint32_t crc) {
  const auto* p = static_cast<const uint8_t*>(from);
  auto* q = static_cast<uint8_t*>(to);
  Quad quad = Load(p);
  Store(q, quad);
  Folding folding(quad, crc);
  for (size_t at = 256; at < bytes; at += 256) {
    quad = Load(p + at);
    Store(q + at, quad);
    folding.Add(quad);
  }
  return ~Reduce(folding.Join());
}

VARVE_TARGET_VPCLMUL uint32_t VpclmulStream(void* to, const void* from, size_t bytes,
                                            uint32_t crc) {
  const auto* p = static_cast<const uint8_t*>(from);
  auto* q = static_cast<uint8_t*>(to);
  Quad quad = Load(p);
  Stream(q, quad);
  Folding folding(quad, crc);
  for (size_t at = 256; at < bytes; at += 256) {
    quad = Load(p + at);
    Stream(q + at, quad);
    folding.Add(quad);
  }
  _mm_sfence();
  return ~Reduce(folding.Join());
}

}  // namespace varve::page::crc

#endif  // __x86_64__
