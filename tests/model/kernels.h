// The four dense loops of the test model, compiled once per instruction set and chosen at run time.
// Pure functions on caller-owned memory; any thread. Results of one row never depend on how many
// rows are passed together: prefill in chunks equals prefill in one go, bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace varve::model {

// Keys of one attention block; DenseKv stores K and V in blocks of this many tokens.
inline constexpr uint32_t kBlockTokens = 64;
// Every matrix dimension must be a multiple of this.
inline constexpr uint32_t kDimMultiple = 16;

// c[r][j] (+)= sum_i a[r][i] * b[i][j]; cols is a multiple of kDimMultiple. Strides are in floats.
struct GemmArgs {
  const float* a;
  size_t a_stride;
  const float* b;
  size_t b_stride;
  float* c;
  size_t c_stride;
  uint32_t rows;
  uint32_t inner;
  uint32_t cols;
  bool accumulate;
};

// Running softmax of one query row: maximum so far and sum of exp(score - maximum).
struct SoftmaxState {
  float max = -1e30f;
  float sum = 0;
};

struct Kernels {
  const char* name;
  void (*gemm)(const GemmArgs& args);
  // Replaces scores[0, kBlockTokens) by exp(score - new maximum), those from `valid` on by 0, and
  // updates the state. Returns the factor by which what was accumulated under the old maximum must
  // be multiplied.
  float (*online_softmax)(float* scores, uint32_t valid, SoftmaxState* state);
  // gate[i] = silu(gate[i]) * up[i]; count is a multiple of kDimMultiple.
  void (*silu_mul)(float* gate, const float* up, uint32_t count);
  // x[i] *= factor; count is a multiple of kDimMultiple.
  void (*scale)(float* x, float factor, uint32_t count);
};

// The fastest set this CPU can run.
const Kernels& BestKernels();
// Every set this CPU can run, slowest first ("portable", "avx2", "avx512").
std::vector<const Kernels*> RunnableKernels();

}  // namespace varve::model
