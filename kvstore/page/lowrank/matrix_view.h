// What the kernels of low-rank keys work on: plain views of matrices. Internal to page.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kvstore/page/dtype.h"

namespace varve::page {

// [rows][cols], cols a multiple of 8.
struct MatrixView {
  const std::byte* elements;
  DType dtype;
  uint32_t rows;
  uint32_t cols;
};

// [heads][rank][head_dim], head_dim a multiple of 8: basis vector j is the elements j of all heads
// side by side.
struct BasisView {
  const std::byte* elements;
  DType dtype;
  uint32_t heads;
  uint32_t rank;
  uint32_t head_dim;
};

// Rows and columns of one block of a Gram matrix: all kernels' tiles divide it.
constexpr uint32_t kGramBlock = 48;

}  // namespace varve::page
