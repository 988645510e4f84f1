#include "tests/model/kernels_impl.h"

namespace varve::model {
extern const Kernels kAvx512Kernels;
const Kernels kAvx512Kernels = kernels_internal::MakeKernels<16>("avx512");
}  // namespace varve::model
