#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/kernel_util.h"
#include "kvstore/page/simd/tables.h"

#if defined(__x86_64__)
// GCC 12 takes the deliberately undefined pass-through operand of its own intrinsics for a mistake
// (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kvstore/page/simd/avx512_math.h"

namespace varve::page {
namespace {

// One bit a channel: VPERMB looks up what four channels come to, for sixteen tokens and four
// quads of channels at once; VPDPBUSD adds up the four. Unpacking the codes for multiply-adds takes
// 2.4 times the instructions.
#include "kvstore/page/simd/vec_avx512.h"

#undef VARVE_FN
#undef VARVE_KERNEL
#define VARVE_FN [[gnu::always_inline]] VARVE_TARGET_AVX512_VBMI inline
#define VARVE_KERNEL VARVE_TARGET_AVX512_VBMI

// A nibble of byte b of word w has the codes of four channels 4 apart (docs/page_format.md), so
// each nibble of a word has a table of four times sixteen sums, of which the byte's number chooses
// the sixteen. Sums are over those of the four integers whose code is one, less the least there is,
// so they are 0 .. 4 * 63.
class NibbleTables {
 public:
  VARVE_KERNEL NibbleTables(const SketchShape& shape, const SketchQueries& queries,
                            uint32_t heads) {
    for (uint32_t h = 0; h < heads; ++h) {
      IntVec least = SetInt(0);
      for (uint32_t nibble = 0; nibble < 2 * shape.words; ++nibble) {
        const IntVec table = Table(&queries.quads[h][4 * nibble], least);
        _mm512_store_si512(tables_[nibble][h], table);
      }
      // Each integer was counted by the sixteen bytes of its table that are of its byte's.
      least_[h] = _mm512_reduce_add_epi32(least) / 16;
    }
  }

  template <uint32_t kHeads, uint32_t kTiles, class Prefetch>
  VARVE_FN void Sums(const std::byte* words, SketchShape shape, uint32_t head,
                     const Prefetch& prefetch, IntVec (&sums)[kHeads][kTiles]) const {
    const IntVec nibble = SetInt(0x0f0f0f0f);
    const IntVec of_byte = SetInt(0x30201000);
    const IntVec one = SetInt(0x01010101);
#pragma GCC unroll 4
    for (uint32_t h = 0; h < kHeads; ++h) {
#pragma GCC unroll 2
      for (uint32_t tile = 0; tile < kTiles; ++tile) {
        sums[h][tile] = _mm512_set1_epi32(least_[head + h]);
      }
    }
#pragma GCC unroll 4
    for (uint32_t w = 0; w < shape.words; ++w, words += size_t{4} * shape.tokens) {
      IntVec word[kTiles];
#pragma GCC unroll 2
      for (uint32_t tile = 0; tile < kTiles; ++tile) {
        word[tile] = LoadWords(words + 4 * tile * kLanes);
      }
      prefetch(size_t{4} * w * shape.tokens);
#pragma GCC unroll 2
      for (uint32_t i = 0; i < 2; ++i) {
        IntVec index[kTiles];
#pragma GCC unroll 2
        for (uint32_t tile = 0; tile < kTiles; ++tile) {
          const IntVec v = i == 0 ? word[tile] : _mm512_srli_epi32(word[tile], 4);
          constexpr int kAndOr = 0xea;  // (v & nibble) | of_byte
          index[tile] = _mm512_ternarylogic_epi32(v, nibble, of_byte, kAndOr);
        }
#pragma GCC unroll 4
        for (uint32_t h = 0; h < kHeads; ++h) {
          const IntVec table = _mm512_load_si512(tables_[2 * w + i][head + h]);
#pragma GCC unroll 2
          for (uint32_t tile = 0; tile < kTiles; ++tile) {
            sums[h][tile] = _mm512_dpbusd_epi32(sums[h][tile],
                                                _mm512_permutexvar_epi8(index[tile], table), one);
          }
        }
      }
    }
  }

 private:
  // quads: of the nibble's four channels of each byte. least: plus the least sum, in each byte of
  // the table.
  VARVE_FN static IntVec Table(const uint32_t* quads, IntVec& least) {
    // Bytes 16 b .. 16 b + 15 take byte b.
    const IntVec of_byte = _mm512_maskz_set1_epi8(0xffff'0000'0000'0000, 3) |
                           _mm512_maskz_set1_epi8(0x0000'ffff'0000'0000, 2) |
                           _mm512_maskz_set1_epi8(0x0000'0000'ffff'0000, 1);
    constexpr __mmask64 kWithBit[4] = {0xaaaa'aaaa'aaaa'aaaa, 0xcccc'cccc'cccc'cccc,
                                       0xf0f0'f0f0'f0f0'f0f0, 0xff00'ff00'ff00'ff00};
    IntVec sum = SetInt(0), negative = SetInt(0);
    for (uint32_t k = 0; k < 4; ++k) {
      const IntVec integer = _mm512_shuffle_epi8(SetInt(quads[k]), of_byte);
      sum = _mm512_mask_add_epi8(sum, kWithBit[k], sum, integer);
      const IntVec below = _mm512_min_epi8(integer, SetInt(0));
      negative = _mm512_add_epi8(negative, below);
      least = _mm512_dpbusd_epi32(least, SetInt(0x01010101), below);
    }
    return _mm512_sub_epi8(sum, negative);
  }

  int32_t least_[kSketchHeads];
  alignas(64) uint8_t tables_[kMaxQuads / 4][kSketchHeads][64];
};

#define VARVE_NARROW_SKETCH Avx512VnniKernels().sketch_log_mass
#define VARVE_OWN_SKETCH_KERNEL
#include "kvstore/page/simd/body_sketch_wide.h"

VARVE_KERNEL void SketchLogMassKernel(const SketchShape& shape, const SketchQueries& queries,
                                      uint32_t heads, const SketchRows& rows,
                                      const SketchOutput& out) {
  if (shape.bits == 1) return WideSketches<1, NibbleTables>(shape, queries, heads, rows, out);
  Avx512VnniKernels().sketch_log_mass(shape, queries, heads, rows, out);
}

void ScorePagesKernel(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                      float* raw) {
  if (!IsSketch(digests.kind)) {
    return kAvx512Kernels.score_pages(digests, queries, group_size, raw);
  }
  ScoreSketches(digests, queries, group_size, raw, SketchLogMassKernel);
}

}  // namespace

const KernelTable& Avx512VbmiKernels() {
  static const KernelTable table = [] {
    KernelTable t = Avx512VnniKernels();
    t.name = "avx512_vbmi";
    t.score_pages = ScorePagesKernel;
    t.sketch_log_mass = SketchLogMassKernel;
    return t;
  }();
  return table;
}

}  // namespace varve::page

#endif  // __x86_64__
