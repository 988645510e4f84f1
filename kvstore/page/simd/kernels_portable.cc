#include <cmath>
#include <cstring>
#include <limits>

#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/kernel_util.h"
#include "kvstore/page/simd/tables.h"

namespace varve::page {
namespace {

// Each needs the ones before it; the blank lines keep the order.
#include "kvstore/page/simd/vec_portable.h"

#include "kvstore/page/simd/body_common.h"

#include "kvstore/page/simd/body_digest.h"

#include "kvstore/page/simd/body_sketch_dots.h"

#include "kvstore/page/simd/body_sketch.h"

#include "kvstore/page/simd/body_score.h"

#include "kvstore/page/simd/body_attention.h"

#include "kvstore/page/simd/body_mass.h"

#include "kvstore/page/simd/body_product.h"

}  // namespace

const KernelTable kPortableKernels = {
    "portable",
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
