#include "tests/model/kernels_impl.h"

namespace varve::model {
extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels = kernels_internal::MakeKernels<8>("avx2");
}  // namespace varve::model
