// The one file of this room that uses a library: Eigen, headers only.
#include "kvstore/page/lowrank/symmetric_eigen.h"

#define EIGEN_MPL2_ONLY
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>

namespace varve::page {

void ArrangeEigen(std::span<const double> values, std::span<const double> vectors,
                  SymmetricEigen& out) {
  const size_t width = values.size();
  out.values.assign(values.rbegin(), values.rend());
  out.vectors.resize(width * width);
  for (size_t j = 0; j < width; ++j) {
    const std::span<const double> from = vectors.subspan((width - 1 - j) * width, width);
    const double greatest = *std::max_element(
        from.begin(), from.end(), [](double a, double b) { return std::abs(a) < std::abs(b); });
    const double sign = greatest < 0 ? -1 : 1;
    std::transform(from.begin(), from.end(), out.vectors.begin() + j * width,
                   [sign](double v) { return sign * v; });
  }
}

bool DecomposeSymmetric(std::span<const double> matrix, uint32_t width, SymmetricEigen& out) {
  // Symmetric, so it does not matter that Eigen reads columns first.
  const Eigen::Map<const Eigen::MatrixXd> view(matrix.data(), width, width);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(view);
  if (solver.info() != Eigen::Success) return false;
  // Ascending; a vector is a column, and columns lie one after the other.
  ArrangeEigen({solver.eigenvalues().data(), width},
               {solver.eigenvectors().data(), size_t{width} * width}, out);
  return true;
}

}  // namespace varve::page
