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

namespace varve::page {
namespace {

#include "kvstore/page/simd/vec_avx512.h"
// clang-format off: each body needs the ones before it
#include "kvstore/page/simd/body_attention.h"
#include "kvstore/page/simd/body_common.h"
#include "kvstore/page/simd/body_digest.h"
#include "kvstore/page/simd/body_score.h"
// clang-format on

}  // namespace

const KernelTable kAvx512Kernels = {
    "avx512",
    AccumulateStatistics,
    AccumulateDeviation,
    ScorePagesKernel,
    ExpAndSum,
    RowMax,
    AddScaled,
    MaxScaled,
    AttendPagesKernel,
    PageLogMassKernel,
};

}  // namespace varve::page

#endif  // __x86_64__
