#include "tests/model/kernels_impl.h"

namespace varve::model {
extern const Kernels kPortableKernels;
const Kernels kPortableKernels = kernels_internal::MakeKernels<4>("portable");
}  // namespace varve::model
