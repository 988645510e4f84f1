// The one file of this room that uses a library: Eigen, headers only.
#include "kvstore/page/lowrank/symmetric_eigen.h"

#define EIGEN_MPL2_ONLY
#include <Eigen/Eigenvalues>
#include <cmath>

namespace varve::page {

bool DecomposeSymmetric(std::span<const double> matrix, uint32_t width, SymmetricEigen& out) {
  // Symmetric, so it does not matter that Eigen reads columns first.
  const Eigen::Map<const Eigen::MatrixXd> view(matrix.data(), width, width);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(view);
  if (solver.info() != Eigen::Success) return false;
  out.values.resize(width);
  out.vectors.resize(size_t{width} * width);
  for (uint32_t j = 0; j < width; ++j) {
    const uint32_t column = width - 1 - j;  // the solver's order is ascending
    out.values[j] = solver.eigenvalues()[column];
    uint32_t greatest = 0;
    for (uint32_t i = 1; i < width; ++i) {
      if (std::abs(solver.eigenvectors()(i, column)) >
          std::abs(solver.eigenvectors()(greatest, column))) {
        greatest = i;
      }
    }
    const double sign = solver.eigenvectors()(greatest, column) < 0 ? -1 : 1;
    for (uint32_t i = 0; i < width; ++i) {
      out.vectors[size_t{j} * width + i] = sign * solver.eigenvectors()(i, column);
    }
  }
  return true;
}

}  // namespace varve::page
