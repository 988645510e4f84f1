#include <cmath>
#include <cstring>
#include <limits>

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

// VPDPBUSD multiplies the four codes of a quad and adds them up in one instruction. Pages of 8
// tokens take vectors of half the width.
#define VARVE_VNNI

namespace narrow {

#include "kvstore/page/simd/vec_avx2.h"

#undef VARVE_FN
#undef VARVE_KERNEL
#define VARVE_FN [[gnu::always_inline]] VARVE_TARGET_AVX512_VNNI inline
#define VARVE_KERNEL VARVE_TARGET_AVX512_VNNI

VARVE_FN IntVec AddDots(IntVec sums, IntVec codes, IntVec quad) {
  return _mm256_dpbusd_epi32(sums, codes, quad);
}

#include "kvstore/page/simd/body_common.h"

#include "kvstore/page/simd/body_sketch_dots.h"

#include "kvstore/page/simd/body_sketch.h"

}  // namespace narrow

namespace wide {

#undef VARVE_FN
#undef VARVE_KERNEL
#include "kvstore/page/simd/vec_avx512.h"

#undef VARVE_FN
#undef VARVE_KERNEL
#define VARVE_FN [[gnu::always_inline]] VARVE_TARGET_AVX512_VNNI inline
#define VARVE_KERNEL VARVE_TARGET_AVX512_VNNI

VARVE_FN IntVec AddDots(IntVec sums, IntVec codes, IntVec quad) {
  return _mm512_dpbusd_epi32(sums, codes, quad);
}

#include "kvstore/page/simd/body_sketch_dots.h"

#define VARVE_NARROW_SKETCH narrow::SketchLogMassKernel
#include "kvstore/page/simd/body_sketch_wide.h"

}  // namespace wide

void ScorePagesKernel(const DigestMatrix& digests, const float* queries, uint32_t group_size,
                      float* raw) {
  if (!IsSketch(digests.kind)) {
    return kAvx512Kernels.score_pages(digests, queries, group_size, raw);
  }
  ScoreSketches(digests, queries, group_size, raw, wide::SketchLogMassKernel);
}

}  // namespace

const KernelTable& Avx512VnniKernels() {
  static const KernelTable table = [] {
    KernelTable t = kAvx512Kernels;
    t.name = "avx512_vnni";
    t.score_pages = ScorePagesKernel;
    t.sketch_log_mass = wide::SketchLogMassKernel;
    return t;
  }();
  return table;
}

}  // namespace varve::page

#endif  // __x86_64__
