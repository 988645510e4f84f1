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

// Each needs the ones before it; the blank lines keep the order.
#include "kvstore/page/simd/vec_avx512.h"

#include "kvstore/page/simd/body_common.h"

#include "kvstore/page/simd/body_digest.h"

#include "kvstore/page/simd/body_sketch_dots.h"

#define VARVE_NARROW_SKETCH kAvx2Kernels.sketch_log_mass
#include "kvstore/page/simd/body_sketch_wide.h"

#include "kvstore/page/simd/body_score.h"

#include "kvstore/page/simd/body_attention.h"

#include "kvstore/page/simd/body_product.h"

}  // namespace

const KernelTable kAvx512Kernels = {
    "avx512",
    AccumulateStatistics,
    AccumulateDeviation,
    ScorePagesKernel,
    SketchLogMassKernel,
    ExpAndSum,
    RowMax,
    AddScaled,
    MaxScaled,
    AttendPagesKernel,
    PageLogMassAvx512,
    ToFloats,
    FromFloats,
    DotF64,
    MultiplyRowsKernel,
    ProjectRowsKernel,
    AddGramBlock,
};

}  // namespace varve::page

#endif  // __x86_64__
