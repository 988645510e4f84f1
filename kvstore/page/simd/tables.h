// The kernel tables by instruction set. Internal to page/simd.
#pragma once

#include "kvstore/page/simd/kernels.h"

namespace varve::page {

extern const KernelTable kPortableKernels;
#if defined(__x86_64__)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
const KernelTable& Avx512VnniKernels();  // AVX-512 with VPDPBUSD for sketches
const KernelTable& Avx512VbmiKernels();  // and with VPERMB for sketches of one bit
const KernelTable& Avx512BF16Kernels();  // and, where there is one, VDPBF16PS for bf16 digests
const KernelTable& AmxKernels();         // and TDPBF16PS for products of bf16 rows
// PageLogMass in AVX-512.
void PageLogMassAvx512(const AttentionShape& shape, const float* q, std::span<const PageView> pages,
                       float* log_mass);
#endif

}  // namespace varve::page
