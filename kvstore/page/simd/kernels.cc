#include "kvstore/page/simd/kernels.h"

#include <algorithm>
#include <array>

#include "kvstore/page/digest/score_math.h"
#include "kvstore/page/simd/cpu_features.h"
#include "kvstore/page/simd/kernel_util.h"
#include "kvstore/page/simd/tables.h"

namespace varve::page {
namespace {

struct Available {
  std::array<const KernelTable*, kMaxKernelTables> tables{};
  size_t count = 0;
  void Add(const KernelTable& table) { tables[count++] = &table; }
};

Available Detect() {
  Available available;
#if defined(__x86_64__)
  if (Cpu().amx_bf16) available.Add(AmxKernels());
  if (Cpu().avx512_bf16) available.Add(Avx512BF16Kernels());
  if (Cpu().avx512_vbmi) available.Add(Avx512VbmiKernels());
  if (Cpu().avx512_vnni) available.Add(Avx512VnniKernels());
  if (Cpu().avx512) available.Add(kAvx512Kernels);
  if (Cpu().avx2) available.Add(kAvx2Kernels);
#endif
  available.Add(kPortableKernels);
  return available;
}

}  // namespace

std::span<const KernelTable* const> AllKernels() {
  static const Available available = Detect();
  return {available.tables.data(), available.count};
}

const KernelTable& Kernels() {
  static const KernelTable& best = *AllKernels().front();
  return best;
}

void MakeScoreWeights(DigestKind kind, const float* queries, uint32_t heads, uint32_t head_dim,
                      float* weights) {
  const uint32_t elements = DigestElements(kind, head_dim);
  const uint32_t padded = (elements + 31) / 32 * 32;
  for (uint32_t h = 0; h < heads; ++h) {
    const float* q = queries + size_t{h} * head_dim;
    float* w = weights + size_t{h} * kMaxScoreElements;
    for (uint32_t i = 0; i < elements; ++i) w[i] = score_math::Weight(kind, q, head_dim, i);
    std::fill(w + elements, w + padded, 0.0f);
  }
}

}  // namespace varve::page
