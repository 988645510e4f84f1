#include "tests/model/kernels.h"

namespace varve::model {

extern const Kernels kPortableKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
#endif

std::vector<const Kernels*> RunnableKernels() {
  std::vector<const Kernels*> sets = {&kPortableKernels};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    sets.push_back(&kAvx2Kernels);
  }
  if (__builtin_cpu_supports("avx512f")) sets.push_back(&kAvx512Kernels);
#endif
  return sets;
}

const Kernels& BestKernels() {
  static const Kernels* const best = RunnableKernels().back();
  return *best;
}

}  // namespace varve::model
