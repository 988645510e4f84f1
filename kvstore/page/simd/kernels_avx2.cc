#include <cmath>
#include <cstring>
#include <limits>

#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/kernel_util.h"
#include "kvstore/page/simd/tables.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace varve::page {
namespace {

// Each needs the ones before it; the blank lines keep the order.
#include "kvstore/page/simd/vec_avx2.h"

#include "kvstore/page/simd/body_common.h"

#include "kvstore/page/simd/body_digest.h"

#include "kvstore/page/simd/body_sketch_dots.h"

#include "kvstore/page/simd/body_sketch.h"

#include "kvstore/page/simd/body_score.h"

#include "kvstore/page/simd/body_attention.h"

#include "kvstore/page/simd/body_mass.h"

#include "kvstore/page/simd/body_product.h"

}  // namespace

const KernelTable kAvx2Kernels = {
    "avx2",
    AccumulateStatistics,
    AccumulateDeviation,
    ScorePagesKernel,
    SketchLogMassKernel,
    ExpAndSum,
    RowMax,
    AddScaled,
    MaxScaled,
    AttendPagesKernel,
    PageLogMassKernel,
    ToFloats,
    FromFloats,
    DotF64,
    MultiplyRowsKernel,
    ProjectRowsKernel,
    AddGramBlock,
};

}  // namespace varve::page

#endif  // __x86_64__
