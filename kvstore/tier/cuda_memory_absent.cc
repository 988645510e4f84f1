// Where the build has no CUDA.
#include "kvstore/tier/device_memory.h"

namespace varve::tier {

absl::StatusOr<std::unique_ptr<DeviceMemory>> ReserveCudaMemory(int, uint64_t) {
  return absl::UnavailableError("built without CUDA");
}

}  // namespace varve::tier
