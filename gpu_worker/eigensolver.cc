#include "gpu_worker/eigensolver.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

prometheus::Counter* Decompositions(base::Metrics* metrics, const char* solver) {
  if (metrics == nullptr) return nullptr;
  return &metrics->Counter("varve_worker_decompositions_total",
                           "Gram matrices of low-rank keys decomposed, by what did it",
                           {{"solver", solver}});
}

void Count(prometheus::Counter* counter) {
  if (counter != nullptr) counter->Increment();
}

}  // namespace

absl::StatusOr<EigensolverChoice> ParseEigensolverChoice(const std::string& name) {
  if (name == "auto") return EigensolverChoice::kAuto;
  if (name == "cpu") return EigensolverChoice::kCpu;
  if (name == "cuda") return EigensolverChoice::kCuda;
  return absl::InvalidArgumentError(
      absl::StrCat("eigensolver is '", name, "', allowed: auto, cpu, cuda"));
}

Eigensolver::Eigensolver(base::Metrics* metrics, Open open)
    : by_cpu_(Decompositions(metrics, "cpu")),
      by_cuda_(Decompositions(metrics, "cuda")),
      open_(std::move(open)) {}

absl::StatusOr<std::shared_ptr<Eigensolver>> Eigensolver::Create(EigensolverChoice choice,
                                                                 base::Metrics* metrics,
                                                                 const Open& open) {
  const bool device = choice != EigensolverChoice::kCpu;
  std::shared_ptr<Eigensolver> solver(new Eigensolver(metrics, device ? open : nullptr));
  if (choice == EigensolverChoice::kCuda) {
    base::MutexLock lock(solver->mutex_);
    if (const absl::Status opened = solver->OpenDevice(); !opened.ok()) {
      return absl::Status(opened.code(), absl::StrCat("eigensolver cuda: ", opened.message()));
    }
  }
  return solver;
}

// Once: a device takes a while to begin with, and memory.
absl::Status Eigensolver::OpenDevice() {
  VARVE_ASSIGN_OR_RETURN(device_, std::exchange(open_, nullptr)());
  base::LogInfo("subspaces of low-rank keys are made by ", device_->name());
  return absl::OkStatus();
}

bool Eigensolver::OnDevice(std::span<const double> matrix, uint32_t width,
                           page::SymmetricEigen& out) {
  base::MutexLock lock(mutex_);
  if (open_ != nullptr) {
    if (const absl::Status opened = OpenDevice(); !opened.ok()) {
      base::LogInfo("subspaces of low-rank keys are made on the CPU: ", opened.message());
    }
  }
  if (device_ == nullptr) return false;
  std::vector<double> values(width), vectors(matrix.size());
  const absl::Status done = device_->Decompose(matrix, values, vectors);
  if (done.ok()) {
    page::ArrangeEigen(values, vectors, out);
    return true;
  }
  const bool may_pass = absl::IsResourceExhausted(done);
  base::LogWarning(may_pass ? "this subspace of low-rank keys is made on the CPU: "
                            : "subspaces of low-rank keys are made on the CPU from now on: ",
                   done.ToString());
  if (!may_pass) device_.reset();
  return false;
}

bool Eigensolver::Decompose(std::span<const double> matrix, uint32_t width,
                            page::SymmetricEigen& out) {
  if (OnDevice(matrix, width, out)) {
    Count(by_cuda_);
    return true;
  }
  Count(by_cpu_);
  return page::DecomposeSymmetric(matrix, width, out);
}

}  // namespace varve::worker
