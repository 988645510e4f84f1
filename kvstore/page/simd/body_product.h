// Products of rows with matrices, for low-rank keys. Internal to page/simd; include inside the
// namespace of one kernel table.
//
// Each element of a product is a chain of multiply-adds in one fixed order, whichever rows and
// columns share its tile, so results do not depend on how rows are batched.

// Multiply-adds per load decide here: tiles of rows x vectors of columns as large as the registers
// hold.
#ifdef VARVE_HALF_VECTORS
constexpr uint32_t kProductRows = 12;
constexpr uint32_t kProjectRows = 6;
constexpr uint32_t kGramRows = 8;
constexpr uint32_t kGramVectors = 3;
#else
constexpr uint32_t kProductRows = 6;
constexpr uint32_t kProjectRows = 2;
constexpr uint32_t kGramRows = 6;
constexpr uint32_t kGramVectors = 2;
#endif
constexpr uint32_t kPanelDepth = 256;
// Floats between rows of a panel: no power of two, so that a column's elements lie in different
// cache sets.
constexpr uint32_t kPanelStep = kPanelDepth + 16;

// Like the vectors, single elements need no alignment.
template <DType T>
VARVE_FN float LoadElement(const std::byte* from) {
  if constexpr (T == DType::kF32) {
    float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  } else {
    uint16_t bits;
    std::memcpy(&bits, from, sizeof(bits));
    return T == DType::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
  }
}

template <DType T>
VARVE_FN void WidenRow(const std::byte* from, uint32_t count, float* to) {
  uint32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Store(to + i, LoadRow<T, false>(from + i * DTypeBytes(T)));
  }
  for (; i < count; ++i) to[i] = LoadElement<T>(from + i * DTypeBytes(T));
}

VARVE_KERNEL void ToFloats(const void* from, DType dtype, uint32_t count, float* to) {
  const auto* bytes = static_cast<const std::byte*>(from);
  switch (dtype) {
    case DType::kF32:
      return WidenRow<DType::kF32>(bytes, count, to);
    case DType::kF16:
      return WidenRow<DType::kF16>(bytes, count, to);
    case DType::kBF16:
      return WidenRow<DType::kBF16>(bytes, count, to);
  }
}

VARVE_FN float Bounded(float value, float greatest) {
  const float below = value < greatest ? value : greatest;
  return below > -greatest ? below : -greatest;
}

VARVE_KERNEL void FromFloats(const float* from, uint32_t count, DType dtype, void* to) {
  if (dtype == DType::kF32) {
    std::memcpy(to, from, count * sizeof(float));
    return;
  }
  const float greatest = GreatestFinite(dtype);
  auto* bytes = static_cast<std::byte*>(to);
  const auto store = [bytes](uint32_t i, uint16_t half) {
    std::memcpy(bytes + i * sizeof(half), &half, sizeof(half));
  };
  if (dtype == DType::kBF16) {
    for (uint32_t i = 0; i < count; ++i) store(i, F32ToBF16(Bounded(from[i], greatest)));
    return;
  }
  uint32_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    StoreF16(bytes + i * sizeof(uint16_t),
             Max(Min(LoadF32(from + i), Set(greatest)), Set(-greatest)));
  }
  for (; i < count; ++i) store(i, F32ToF16(Bounded(from[i], greatest)));
}

// Four and four parts: what the widest vectors of AVX2 hold.
typedef double Doubles __attribute__((vector_size(32)));
typedef float FourFloats __attribute__((vector_size(16)));

VARVE_FN void AddFour(const float* a, const float* b, Doubles& sums) {
  FourFloats x, y;
  std::memcpy(&x, a, sizeof(x));
  std::memcpy(&y, b, sizeof(y));
  sums += __builtin_convertvector(x, Doubles) * __builtin_convertvector(y, Doubles);
}

VARVE_KERNEL double DotF64(const float* a, const float* b, uint32_t count) {
  Doubles low = {}, high = {};
  uint32_t i = 0;
  for (; i + 8 <= count; i += 8) {
    AddFour(a + i, b + i, low);
    AddFour(a + i + 4, b + i + 4, high);
  }
  for (; i < count; ++i) {
    Doubles& parts = i % 8 < 4 ? low : high;
    parts[i % 4] += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return ((low[0] + high[0]) + (low[2] + high[2])) + ((low[1] + high[1]) + (low[3] + high[3]));
}

// out[r][c] = (add ? out[r][c] : 0) + sum_k a[r kRowStep + k a_step] b[k][c], k ascending.
template <DType T, uint32_t kRows, uint32_t kVectors, bool kHalf, size_t kRowStep>
VARVE_FN void ProductTile(const float* a, size_t a_step, const std::byte* b, size_t b_stride,
                          uint32_t depth, bool add, float* out, size_t out_stride) {
  constexpr uint32_t n = kHalf ? 8 : kLanes;
  constexpr size_t vector_bytes = kLanes * DTypeBytes(T);
  Vec acc[kRows][kVectors];
#pragma GCC unroll 12
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (uint32_t v = 0; v < kVectors; ++v) {
      acc[r][v] = add ? LoadFloats(out + r * out_stride + v * kLanes, n, 0) : Set(0);
    }
  }
  for (uint32_t k = 0; k < depth; ++k) {
    Vec row[kVectors];
#pragma GCC unroll 3
    for (uint32_t v = 0; v < kVectors; ++v) row[v] = LoadRow<T, kHalf>(b + v * vector_bytes);
#pragma GCC unroll 12
    for (uint32_t r = 0; r < kRows; ++r) {
      const Vec x = Set(a[r * kRowStep]);
#pragma GCC unroll 3
      for (uint32_t v = 0; v < kVectors; ++v) acc[r][v] = MulAdd(x, row[v], acc[r][v]);
    }
    a += a_step;
    b += b_stride;
  }
#pragma GCC unroll 12
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 3
    for (uint32_t v = 0; v < kVectors; ++v) {
      StoreFloats(out + r * out_stride + v * kLanes, n, acc[r][v]);
    }
  }
}

// All columns of kRows rows that lie in the panel, over part of the depth.
template <DType T, uint32_t kRows>
VARVE_KERNEL void ProductColumns(const float* panel, const MatrixView& matrix, uint32_t first,
                                 uint32_t depth, float* out, size_t out_stride) {
  constexpr size_t element = DTypeBytes(T);
  const size_t stride = matrix.cols * element;
  const std::byte* b = matrix.elements + first * stride;
  const bool add = first > 0;
  uint32_t c = 0;
  for (; c + 2 * kLanes <= matrix.cols; c += 2 * kLanes) {
    ProductTile<T, kRows, 2, false, kPanelStep>(panel, 1, b + c * element, stride, depth, add,
                                                out + c, out_stride);
  }
  if (c + kLanes <= matrix.cols) {
    ProductTile<T, kRows, 1, false, kPanelStep>(panel, 1, b + c * element, stride, depth, add,
                                                out + c, out_stride);
    c += kLanes;
  }
  if constexpr (kLanes > 8) {
    if (c < matrix.cols) {
      ProductTile<T, kRows, 1, true, kPanelStep>(panel, 1, b + c * element, stride, depth, add,
                                                 out + c, out_stride);
    }
  }
}

template <uint32_t kRows>
VARVE_KERNEL void ProductOfRows(const std::byte* const* rows, DType dtype, const MatrixView& matrix,
                                float* panel, float* out, size_t out_stride) {
  for (uint32_t first = 0; first < matrix.rows; first += kPanelDepth) {
    const uint32_t left = matrix.rows - first;
    const uint32_t depth = left < kPanelDepth ? left : kPanelDepth;
    for (uint32_t r = 0; r < kRows; ++r) {
      ToFloats(rows[r] + first * DTypeBytes(dtype), dtype, depth, panel + r * kPanelStep);
    }
    switch (matrix.dtype) {
      case DType::kF32:
        ProductColumns<DType::kF32, kRows>(panel, matrix, first, depth, out, out_stride);
        break;
      case DType::kF16:
        ProductColumns<DType::kF16, kRows>(panel, matrix, first, depth, out, out_stride);
        break;
      case DType::kBF16:
        ProductColumns<DType::kBF16, kRows>(panel, matrix, first, depth, out, out_stride);
        break;
    }
  }
}

// Rows are scattered, so the hardware prefetchers do not find the next ones.
VARVE_FN void PrefetchRows(std::span<const std::byte* const> rows, size_t first, size_t bytes) {
  for (size_t r = first; r < rows.size() && r < first + kProductRows; ++r) {
    for (size_t line = 0; line < bytes; line += RowPrefetcher::kLineBytes) {
      __builtin_prefetch(rows[r] + line);
    }
  }
}

VARVE_KERNEL void MultiplyRowsKernel(std::span<const std::byte* const> rows, DType dtype,
                                     const MatrixView& matrix, float* out, size_t out_stride) {
  alignas(64) float panel[kProductRows * kPanelStep];
  constexpr uint32_t kSome = kProductRows / 3;
  const size_t row_bytes = matrix.rows * DTypeBytes(dtype);
  size_t t = 0;
  while (t < rows.size()) {
    const size_t left = rows.size() - t;
    float* to = out + t * out_stride;
    if (left >= kProductRows) {
      PrefetchRows(rows, t + kProductRows, row_bytes);
      ProductOfRows<kProductRows>(&rows[t], dtype, matrix, panel, to, out_stride);
      t += kProductRows;
    } else if (left >= kSome) {
      ProductOfRows<kSome>(&rows[t], dtype, matrix, panel, to, out_stride);
      t += kSome;
    } else {
      ProductOfRows<1>(&rows[t], dtype, matrix, panel, to, out_stride);
      ++t;
    }
  }
}

template <DType T, uint32_t kRows, uint32_t kCols, bool kHalf>
VARVE_FN void ProjectStep(const float* x, size_t width, const std::byte* b, size_t row_bytes,
                          Vec (&acc)[kRows][kCols]) {
  Vec basis[kCols];
#pragma GCC unroll 4
  for (uint32_t c = 0; c < kCols; ++c) basis[c] = LoadRow<T, kHalf>(b + c * row_bytes);
#pragma GCC unroll 6
  for (uint32_t r = 0; r < kRows; ++r) {
    const Vec v = LoadRow<DType::kF32, kHalf>(reinterpret_cast<const std::byte*>(x + r * width));
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kCols; ++c) acc[r][c] = MulAdd(v, basis[c], acc[r][c]);
  }
}

// kRows rows against kCols basis vectors, from `column` on.
template <DType T, uint32_t kRows, uint32_t kCols>
VARVE_FN void ProjectTile(const float* x, const BasisView& basis, uint32_t column, float* out) {
  constexpr size_t element = DTypeBytes(T);
  const size_t row_bytes = basis.head_dim * element;
  const size_t width = size_t{basis.heads} * basis.head_dim;
  Vec acc[kRows][kCols];
#pragma GCC unroll 6
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kCols; ++c) acc[r][c] = Set(0);
  }
  for (uint32_t h = 0; h < basis.heads; ++h) {
    const std::byte* b = basis.elements + (size_t{h} * basis.rank + column) * row_bytes;
    const float* head = x + h * basis.head_dim;
    uint32_t i = 0;
    for (; i + kLanes <= basis.head_dim; i += kLanes) {
      ProjectStep<T, kRows, kCols, false>(head + i, width, b + i * element, row_bytes, acc);
    }
    if constexpr (kLanes > 8) {
      if (i < basis.head_dim) {
        ProjectStep<T, kRows, kCols, true>(head + i, width, b + i * element, row_bytes, acc);
      }
    }
  }
#pragma GCC unroll 6
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (uint32_t c = 0; c < kCols; ++c) {
      out[size_t{r} * basis.rank + column + c] = Sum(acc[r][c]);
    }
  }
}

template <DType T, uint32_t kRows>
VARVE_KERNEL void ProjectColumns(const float* x, const BasisView& basis, float* out) {
  uint32_t column = 0;
  for (; column + 4 <= basis.rank; column += 4) ProjectTile<T, kRows, 4>(x, basis, column, out);
  for (; column < basis.rank; ++column) ProjectTile<T, kRows, 1>(x, basis, column, out);
}

template <DType T>
VARVE_FN void ProjectAll(const float* x, uint32_t count, const BasisView& basis, float* out) {
  const size_t width = size_t{basis.heads} * basis.head_dim;
  uint32_t r = 0;
  for (; r + kProjectRows <= count; r += kProjectRows) {
    ProjectColumns<T, kProjectRows>(x + r * width, basis, out + size_t{r} * basis.rank);
  }
  for (; r < count; ++r) {
    ProjectColumns<T, 1>(x + r * width, basis, out + size_t{r} * basis.rank);
  }
}

VARVE_KERNEL void ProjectRowsKernel(const float* x, uint32_t count, const BasisView& basis,
                                    float* out) {
  switch (basis.dtype) {
    case DType::kF32:
      return ProjectAll<DType::kF32>(x, count, basis, out);
    case DType::kF16:
      return ProjectAll<DType::kF16>(x, count, basis, out);
    case DType::kBF16:
      return ProjectAll<DType::kBF16>(x, count, basis, out);
  }
}

VARVE_KERNEL void AddGramBlock(const float* rows, const float* cols, uint32_t tokens,
                               double* block) {
  constexpr size_t kStride = kGramBlock * sizeof(float);
  constexpr uint32_t kWide = kGramVectors * kLanes;
  static_assert(kGramBlock % kGramRows == 0 && kGramBlock % kWide == 0);
  alignas(64) float tile[kGramRows][kWide];
  for (uint32_t i = 0; i < kGramBlock; i += kGramRows) {
    for (uint32_t j = 0; j < kGramBlock; j += kWide) {
      ProductTile<DType::kF32, kGramRows, kGramVectors, false, 1>(
          rows + i, kGramBlock, reinterpret_cast<const std::byte*>(cols + j), kStride, tokens,
          /*add=*/false, &tile[0][0], kWide);
      for (uint32_t r = 0; r < kGramRows; ++r) {
        double* sums = block + (i + r) * kGramBlock + j;
        for (uint32_t c = 0; c < kWide; ++c) sums[c] += static_cast<double>(tile[r][c]);
      }
    }
  }
}
