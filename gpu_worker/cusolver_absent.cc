// Where the build has no CUDA.
#include "gpu_worker/eigensolver.h"

namespace varve::worker {

absl::StatusOr<std::unique_ptr<DeviceSolver>> OpenCusolver() {
  return absl::UnavailableError("built without CUDA");
}

}  // namespace varve::worker
