// Template of one kernel set over W, the floats in a vector register. Each including file compiles
// it with its own instruction-set flags and W, so no two translation units share an instantiation.
// No library function may be called here: an inline one compiled for AVX-512 could be the copy that
// the linker keeps for everyone.
#pragma once

#include "tests/model/kernels.h"

namespace varve::model::kernels_internal {

template <int W>
struct Simd {
  // GCC drops the attribute of a dependent alias-declaration, hence typedef.
  typedef float F __attribute__((vector_size(W * sizeof(float))));      // NOLINT
  typedef int32_t I __attribute__((vector_size(W * sizeof(int32_t))));  // NOLINT
  static_assert(sizeof(F) == W * sizeof(float));

  static inline __attribute__((always_inline)) void Load(const float* p, F* v) {
    __builtin_memcpy(v, p, sizeof(F));
  }
  static inline __attribute__((always_inline)) void Store(float* p, const F& v) {
    __builtin_memcpy(p, &v, sizeof(F));
  }

  // e^x in place, relative error below 3e-7 for x in [-87, 87]; values outside are clamped to that
  // range.
  static inline __attribute__((always_inline)) void Exp(F* inout) {
    F x = *inout;
    x = x < -87.0f ? F{} - 87.0f : x;
    x = x > 87.0f ? F{} + 87.0f : x;
    // 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
    constexpr float kRound = 12582912.0f;
    const F shifted = x * 1.44269504088896341f + kRound;
    const F n = shifted - kRound;
    const F r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
    F p = r * 1.3888889e-3f + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    I bits, power;
    __builtin_memcpy(&bits, &p, sizeof(F));
    __builtin_memcpy(&power, &shifted, sizeof(F));
    bits += power << 23;
    __builtin_memcpy(inout, &bits, sizeof(F));
  }
};

// R rows by N vectors of the product, kept in registers.
template <int W, int R, int N>
inline __attribute__((always_inline)) void GemmTile(const GemmArgs& g, uint32_t row, uint32_t col) {
  using S = Simd<W>;
  typename S::F acc[R][N] = {};
  const float* a = g.a + row * g.a_stride;
  const float* b = g.b + col;
  float* c = g.c + row * g.c_stride + col;
  if (g.accumulate) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) S::Load(c + r * g.c_stride + n * W, &acc[r][n]);
    }
  }
  for (uint32_t i = 0; i < g.inner; ++i) {
    typename S::F bv[N];
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) S::Load(b + i * g.b_stride + n * W, &bv[n]);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float av = a[r * g.a_stride + i];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) acc[r][n] += av * bv[n];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) S::Store(c + r * g.c_stride + n * W, acc[r][n]);
  }
}

template <int W, int R>
void GemmRows(const GemmArgs& g, uint32_t row) {
  constexpr int kWide = R == 1 ? 4 : 2;
  uint32_t col = 0;
  for (; col + kWide * W <= g.cols; col += kWide * W) GemmTile<W, R, kWide>(g, row, col);
  for (; col < g.cols; col += W) GemmTile<W, R, 1>(g, row, col);
}

template <int W>
void Gemm(const GemmArgs& g) {
  constexpr uint32_t kRows = 6;
  uint32_t row = 0;
  for (; row + kRows <= g.rows; row += kRows) GemmRows<W, kRows>(g, row);
  for (; row < g.rows; ++row) GemmRows<W, 1>(g, row);
}

template <int W>
float OnlineSoftmax(float* scores, uint32_t valid, SoftmaxState* state) {
  using S = Simd<W>;
  for (uint32_t i = valid; i < kBlockTokens; ++i) scores[i] = -1e30f;
  typename S::F vmax = typename S::F{} + state->max;
  for (uint32_t i = 0; i < kBlockTokens; i += W) {
    typename S::F v;
    S::Load(scores + i, &v);
    vmax = v > vmax ? v : vmax;
  }
  float lanes[W];
  S::Store(lanes, vmax);
  float max = lanes[0];
  for (int i = 1; i < W; ++i) max = lanes[i] > max ? lanes[i] : max;

  for (uint32_t i = 0; i < kBlockTokens; i += W) {
    typename S::F v;
    S::Load(scores + i, &v);
    v -= max;
    S::Exp(&v);
    S::Store(scores + i, v);
  }
  for (uint32_t i = valid; i < kBlockTokens; ++i) scores[i] = 0;
  typename S::F vsum{};
  for (uint32_t i = 0; i < kBlockTokens; i += W) {
    typename S::F v;
    S::Load(scores + i, &v);
    vsum += v;
  }
  S::Store(lanes, vsum);
  float sum = 0;
  for (int i = 0; i < W; ++i) sum += lanes[i];

  typename S::F rescale = typename S::F{} + (state->max - max);
  S::Exp(&rescale);
  S::Store(lanes, rescale);
  const float factor = max == state->max ? 1.0f : lanes[0];
  state->max = max;
  state->sum = state->sum * factor + sum;
  return factor;
}

template <int W>
void SiluMul(float* gate, const float* up, uint32_t count) {
  using S = Simd<W>;
  for (uint32_t i = 0; i < count; i += W) {
    typename S::F g, u;
    S::Load(gate + i, &g);
    S::Load(up + i, &u);
    typename S::F e = -g;
    S::Exp(&e);
    S::Store(gate + i, g / (e + 1.0f) * u);
  }
}

template <int W>
void Scale(float* x, float factor, uint32_t count) {
  using S = Simd<W>;
  for (uint32_t i = 0; i < count; i += W) {
    typename S::F v;
    S::Load(x + i, &v);
    S::Store(x + i, v * factor);
  }
}

template <int W>
constexpr Kernels MakeKernels(const char* name) {
  return {name, &Gemm<W>, &OnlineSoftmax<W>, &SiluMul<W>, &Scale<W>};
}

}  // namespace varve::model::kernels_internal
