// What decomposes the Gram matrices of low-rank keys (policy shadowkv): a CUDA device, by cuSOLVER,
// where this process can use one, else a core, by Eigen. The two differ by rounding; what one
// sequence's keys are kept in stays whatever was found first.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvstore/base/metrics.h"
#include "kvstore/base/mutex.h"
#include "kvstore/page/lowrank/symmetric_eigen.h"

namespace varve::worker {

// auto: a device when the first matrix comes and one is there; cuda: refuse to begin without one.
enum class EigensolverChoice { kAuto, kCpu, kCuda };
// INVALID_ARGUMENT names what is allowed.
absl::StatusOr<EigensolverChoice> ParseEigensolverChoice(const std::string& name);

// A library on a device. One call at a time.
class DeviceSolver {
 public:
  virtual ~DeviceSolver() = default;
  virtual std::string name() const = 0;
  // matrix as in page::DecomposeSymmetric; values and vectors as in page::ArrangeEigen.
  // RESOURCE_EXHAUSTED: too little memory on the device, which may pass.
  virtual absl::Status Decompose(std::span<const double> matrix, std::span<double> values,
                                 std::span<double> vectors) = 0;
};

// On the first device that the process sees. UNAVAILABLE says what is missing: the build's CUDA, a
// driver, a device or the library (libcusolver, found as the dynamic linker finds it, then in
// /usr/local/cuda).
absl::StatusOr<std::unique_ptr<DeviceSolver>> OpenCusolver();

// Thread-safe. A decomposition that fails on the device is done by the CPU; so are all later ones
// unless it failed for want of memory.
class Eigensolver {
 public:
  using Open = std::function<absl::StatusOr<std::unique_ptr<DeviceSolver>>()>;

  // metrics may be null. Fails with what open says when the choice is kCuda.
  static absl::StatusOr<std::shared_ptr<Eigensolver>> Create(EigensolverChoice choice,
                                                             base::Metrics* metrics,
                                                             const Open& open = OpenCusolver);

  // As page::DecomposeSymmetric.
  bool Decompose(std::span<const double> matrix, uint32_t width, page::SymmetricEigen& out);

 private:
  Eigensolver(base::Metrics* metrics, Open open);
  bool OnDevice(std::span<const double> matrix, uint32_t width, page::SymmetricEigen& out);
  absl::Status OpenDevice() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  prometheus::Counter* by_cpu_ = nullptr;
  prometheus::Counter* by_cuda_ = nullptr;
  base::Mutex mutex_;
  Open open_ ABSL_GUARDED_BY(mutex_);  // null: not to be tried (any more)
  std::unique_ptr<DeviceSolver> device_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::worker
