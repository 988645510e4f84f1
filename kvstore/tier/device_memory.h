// Memory that only a device reaches, and copies to and from it: what the GPU tier knows of CUDA.
//
// Threads: one at a time; memory() any. Copies run in the order in which they were started.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::tier {

class DeviceMemory {
 public:
  // How many copies may be started and not waited for.
  static constexpr size_t kMaxCopies = 64;

  // REQUIRES: every copy has been waited for.
  virtual ~DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Addresses of the device, not for the CPU to touch.
  virtual std::span<std::byte> memory() const = 0;

  // Starts a copy between the host's memory and [offset, offset + bytes) of the device's. With an
  // error there is no copy to wait for and the host's memory is the caller's again.
  // REQUIRES: the range is inside memory(); fewer than kMaxCopies are under way.
  virtual absl::Status StartWrite(uint64_t offset, std::span<const std::byte> from) = 0;
  virtual absl::Status StartRead(uint64_t offset, std::span<std::byte> to) = 0;
  // Waits for the oldest copy under way. REQUIRES: there is one.
  virtual absl::Status WaitForOldest() = 0;

 protected:
  DeviceMemory() = default;
};

// Memory of one CUDA device, the first being 0. Threads that call this, or the result, have that
// device as their current one from then on. Errors name the CUDA call and error. UNAVAILABLE,
// saying why: no device, no driver, or built without CUDA; INVALID_ARGUMENT: no such device;
// RESOURCE_EXHAUSTED: the device has not that much free.
absl::StatusOr<std::unique_ptr<DeviceMemory>> ReserveCudaMemory(int device, uint64_t bytes);

}  // namespace varve::tier
