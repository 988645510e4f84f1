// What this CPU and its operating system let us execute. Read once by CPUID; thread-safe.
#pragma once

namespace varve::page {

struct CpuFeatures {
  bool sse42 = false;        // crc32 instruction
  bool avx2 = false;         // AVX2 with FMA and F16C
  bool avx512 = false;       // AVX-512 F, BW, DQ, VL
  bool avx512_bf16 = false;  // and VDPBF16PS
  bool avx512_vnni = false;  // and VPDPBUSD
  bool avx512_vbmi = false;  // and VPERMB
  bool vpclmul512 = false;   // and VPCLMULQDQ
  bool amx_bf16 = false;     // TDPBF16PS and VDPBF16PS; this process may use tiles
};

const CpuFeatures& Cpu();

}  // namespace varve::page

// Function attributes rather than per-file compiler flags: with flags, inline functions of shared
// headers could be emitted with these instructions and be the copies the linker keeps for every
// CPU.
#if defined(__x86_64__)
#define VARVE_TARGET_SSE42 __attribute__((target("sse4.2,pclmul")))
#define VARVE_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define VARVE_TARGET_AVX512 \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define VARVE_TARGET_AVX512_BF16 \
  __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define VARVE_TARGET_AMX                                                  \
  __attribute__((                                                         \
      target("amx-tile,amx-bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2," \
             "fma,f16c")))
#define VARVE_TARGET_AVX512_VNNI \
  __attribute__((target("avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define VARVE_TARGET_AVX512_VBMI                                                  \
  __attribute__((                                                                 \
      target("avx512vbmi,avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma," \
             "f16c")))
#define VARVE_TARGET_VPCLMUL \
  __attribute__((target("vpclmulqdq,pclmul,sse4.2,avx512f,avx512bw,avx512dq,avx512vl")))
#endif
