// Eigenvalues and eigenvectors of a symmetric matrix.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace varve::page {

struct SymmetricEigen {
  std::vector<double> values;   // descending
  std::vector<double> vectors;  // [width][width], row j belongs to values[j]; orthonormal
};

// matrix: [width][width] row by row, finite; the upper triangle is read. The sign of a vector is
// such that its element of greatest magnitude, the first of equals, is positive. Equal matrices
// give equal bits. About 10 width^3 operations on one core. False when the iteration does not
// converge.
bool DecomposeSymmetric(std::span<const double> matrix, uint32_t width, SymmetricEigen& out);

// Another one that does the same, if perhaps with other roundings: thread-safe.
using SymmetricSolver =
    std::function<bool(std::span<const double> matrix, uint32_t width, SymmetricEigen& out)>;

// What a library gives, [width] ascending and [width][width] with row j for values[j], in the order
// and with the signs that are agreed on.
void ArrangeEigen(std::span<const double> values, std::span<const double> vectors,
                  SymmetricEigen& out);

}  // namespace varve::page
