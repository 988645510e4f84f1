#include <cmath>
#include <cstring>
#include <limits>

#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/kernel_util.h"
#include "kvstore/page/simd/tables.h"

namespace varve::page {
namespace {

#include "kvstore/page/simd/vec_portable.h"
// clang-format off: each body needs the ones before it
#include "kvstore/page/simd/body_attention.h"
#include "kvstore/page/simd/body_common.h"
#include "kvstore/page/simd/body_digest.h"
#include "kvstore/page/simd/body_score.h"
// clang-format on

}  // namespace

const KernelTable kPortableKernels = {
    "portable",          AccumulateStatistics,
    AccumulateDeviation, ScorePagesKernel,
    ExpAndSum,           RowMax,
    AddScaled,           MaxScaled,
    AttendPagesKernel,   PageLogMassKernel,
};

}  // namespace varve::page
