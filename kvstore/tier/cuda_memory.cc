// DeviceMemory by the CUDA runtime: one allocation, one stream, an event behind each copy.
#include <cuda_runtime_api.h>

#include <array>
#include <string>

#include "absl/strings/str_cat.h"
#include "kvstore/base/cuda_status.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/tier/device_memory.h"

namespace varve::tier {
namespace {

using base::CudaStatus;

class CudaMemory final : public DeviceMemory {
 public:
  explicit CudaMemory(int device) : device_(device) {}
  ~CudaMemory() override {
    cudaSetDevice(device_);
    for (cudaEvent_t event : events_) {
      if (event != nullptr) cudaEventDestroy(event);
    }
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
    cudaFree(memory_.data());
  }

  // Once, before anything else, on a thread that has set the device.
  absl::Status Reserve(uint64_t bytes) {
    void* data = nullptr;
    VARVE_RETURN_IF_ERROR(CudaStatus(cudaMalloc(&data, bytes), "cudaMalloc"));
    memory_ = {static_cast<std::byte*>(data), bytes};
    // Copies wait for no one else's work on the default stream.
    VARVE_RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                                     "cudaStreamCreateWithFlags"));
    // Waiting takes no core.
    constexpr unsigned kFlags = cudaEventDisableTiming | cudaEventBlockingSync;
    for (cudaEvent_t& event : events_) {
      VARVE_RETURN_IF_ERROR(
          CudaStatus(cudaEventCreateWithFlags(&event, kFlags), "cudaEventCreateWithFlags"));
    }
    return absl::OkStatus();
  }

  std::span<std::byte> memory() const override { return memory_; }
  absl::Status StartWrite(uint64_t offset, std::span<const std::byte> from) override {
    return Start(memory_.data() + offset, from.data(), from.size(), cudaMemcpyHostToDevice);
  }
  absl::Status StartRead(uint64_t offset, std::span<std::byte> to) override {
    return Start(to.data(), memory_.data() + offset, to.size(), cudaMemcpyDeviceToHost);
  }
  absl::Status WaitForOldest() override {
    return CudaStatus(cudaEventSynchronize(events_[waited_++ % kMaxCopies]),
                      "cudaEventSynchronize");
  }

 private:
  absl::Status Start(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    VARVE_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_), "cudaSetDevice"));
    if (bytes > 0) {
      VARVE_RETURN_IF_ERROR(
          CudaStatus(cudaMemcpyAsync(to, from, bytes, kind, stream_), "cudaMemcpyAsync"));
    }
    const cudaError_t recorded = cudaEventRecord(events_[started_ % kMaxCopies], stream_);
    if (recorded == cudaSuccess) {
      ++started_;
    } else {
      cudaStreamSynchronize(stream_);  // nothing else says when this copy has ended
    }
    return CudaStatus(recorded, "cudaEventRecord");
  }

  const int device_;
  std::span<std::byte> memory_;
  cudaStream_t stream_ = nullptr;
  // In turn: the copies under way have those of [waited_, started_).
  std::array<cudaEvent_t, kMaxCopies> events_ = {};
  uint64_t started_ = 0, waited_ = 0;
};

absl::Status SetDevice(int device) {
  int devices = 0;
  VARVE_RETURN_IF_ERROR(CudaStatus(cudaGetDeviceCount(&devices), "cudaGetDeviceCount"));
  if (devices == 0) return absl::UnavailableError("there is no CUDA device");
  if (device < 0 || device >= devices) {
    return absl::InvalidArgumentError(
        absl::StrCat("device is ", device, ", allowed: 0..", devices - 1));
  }
  return CudaStatus(cudaSetDevice(device), "cudaSetDevice");
}

absl::Status CheckMemoryFor(uint64_t bytes, int device) {
  size_t free = 0, total = 0;
  VARVE_RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free, &total), "cudaMemGetInfo"));
  if (bytes <= free) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(base::FormatBytes(bytes), " do not fit: ", base::FormatBytes(free), " of ",
                   base::FormatBytes(total), " are free on CUDA device ", device));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceMemory>> ReserveCudaMemory(int device, uint64_t bytes) {
  VARVE_RETURN_IF_ERROR(SetDevice(device));
  VARVE_RETURN_IF_ERROR(CheckMemoryFor(bytes, device));
  auto memory = std::make_unique<CudaMemory>(device);
  VARVE_RETURN_IF_ERROR(memory->Reserve(bytes));
  return memory;
}

}  // namespace varve::tier
