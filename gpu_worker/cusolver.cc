// DeviceSolver by cuSOLVER's divide and conquer in double precision. The library is loaded when it
// is needed: a worker starts on machines that do not have it.
#include <cuda_runtime_api.h>
#include <cusolverDn.h>
#include <dlfcn.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gpu_worker/eigensolver.h"
#include "kvstore/base/cuda_status.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

using base::CudaStatus;

// The calls of the library that are used.
struct Cusolver {
  decltype(&cusolverDnCreate) create = nullptr;
  decltype(&cusolverDnDestroy) destroy = nullptr;
  decltype(&cusolverDnSetStream) set_stream = nullptr;
  decltype(&cusolverDnSetDeterministicMode) set_deterministic_mode = nullptr;
  decltype(&cusolverDnDsyevd_bufferSize) workspace = nullptr;
  decltype(&cusolverDnDsyevd) decompose = nullptr;
};

absl::StatusOr<void*> OpenLibrary() {
  const std::string name = absl::StrCat("libcusolver.so.", CUSOLVER_VER_MAJOR);
  std::string why;
  for (const std::string& path : {name, absl::StrCat("/usr/local/cuda/lib64/", name)}) {
    // Never closed: libraries of CUDA do not take to it.
    if (void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
    absl::StrAppend(&why, why.empty() ? "" : "; ", dlerror());
  }
  return absl::UnavailableError(why);
}

template <typename Call>
absl::Status Find(void* library, const char* name, Call& call) {
  call = reinterpret_cast<Call>(dlsym(library, name));
  return call != nullptr ? absl::OkStatus()
                         : absl::UnavailableError(absl::StrCat("libcusolver has no ", name));
}

absl::StatusOr<Cusolver> Load() {
  VARVE_ASSIGN_OR_RETURN(void* const library, OpenLibrary());
  Cusolver calls;
  VARVE_RETURN_IF_ERROR(Find(library, "cusolverDnCreate", calls.create));
  VARVE_RETURN_IF_ERROR(Find(library, "cusolverDnDestroy", calls.destroy));
  VARVE_RETURN_IF_ERROR(Find(library, "cusolverDnSetStream", calls.set_stream));
  VARVE_RETURN_IF_ERROR(
      Find(library, "cusolverDnSetDeterministicMode", calls.set_deterministic_mode));
  VARVE_RETURN_IF_ERROR(Find(library, "cusolverDnDsyevd_bufferSize", calls.workspace));
  VARVE_RETURN_IF_ERROR(Find(library, "cusolverDnDsyevd", calls.decompose));
  return calls;
}

absl::Status SolverStatus(cusolverStatus_t status, const char* call) {
  if (status == CUSOLVER_STATUS_SUCCESS) return absl::OkStatus();
  const absl::StatusCode code = status == CUSOLVER_STATUS_ALLOC_FAILED
                                    ? absl::StatusCode::kResourceExhausted
                                    : absl::StatusCode::kInternal;
  return absl::Status(code, absl::StrCat(call, ": cusolverStatus_t ", static_cast<int>(status)));
}

// The thread may be the engine's, which has its own idea of the device.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    cudaGetDevice(&before_);
    status_ = CudaStatus(cudaSetDevice(device), "cudaSetDevice");
  }
  ~OnDevice() { cudaSetDevice(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  const absl::Status& status() const { return status_; }

 private:
  int before_ = 0;
  absl::Status status_;
};

class DeviceMemory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  absl::Status Allocate(size_t bytes) {
    return CudaStatus(cudaMalloc(&data_, bytes), "cudaMalloc");
  }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

class CusolverOnDevice final : public DeviceSolver {
 public:
  CusolverOnDevice(const Cusolver& calls, int device) : calls_(calls), device_(device) {}
  ~CusolverOnDevice() override {
    const OnDevice scope(device_);
    if (handle_ != nullptr) calls_.destroy(handle_);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  // Once, before anything else.
  absl::Status Begin() {
    const OnDevice scope(device_);
    VARVE_RETURN_IF_ERROR(scope.status());
    cudaDeviceProp properties;
    VARVE_RETURN_IF_ERROR(
        CudaStatus(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties"));
    name_ = absl::StrCat("cuSOLVER on CUDA device ", device_, " (", properties.name, ")");
    VARVE_RETURN_IF_ERROR(CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking),
                                     "cudaStreamCreateWithFlags"));
    VARVE_RETURN_IF_ERROR(SolverStatus(calls_.create(&handle_), "cusolverDnCreate"));
    VARVE_RETURN_IF_ERROR(
        SolverStatus(calls_.set_deterministic_mode(handle_, CUSOLVER_DETERMINISTIC_RESULTS),
                     "cusolverDnSetDeterministicMode"));
    return SolverStatus(calls_.set_stream(handle_, stream_), "cusolverDnSetStream");
  }

  std::string name() const override { return name_; }

  absl::Status Decompose(std::span<const double> matrix, std::span<double> values,
                         std::span<double> vectors) override {
    const OnDevice scope(device_);
    VARVE_RETURN_IF_ERROR(scope.status());
    const auto width = static_cast<int>(values.size());
    // Vectors replace the matrix, column by column; its upper triangle by rows is the lower one by
    // columns.
    DeviceMemory square, spectrum, workspace, info;
    VARVE_RETURN_IF_ERROR(square.Allocate(matrix.size_bytes()));
    VARVE_RETURN_IF_ERROR(spectrum.Allocate(values.size_bytes()));
    VARVE_RETURN_IF_ERROR(info.Allocate(sizeof(int)));
    int elements = 0;
    VARVE_RETURN_IF_ERROR(SolverStatus(
        calls_.workspace(handle_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, width,
                         square.as<double>(), width, spectrum.as<double>(), &elements),
        "cusolverDnDsyevd_bufferSize"));
    VARVE_RETURN_IF_ERROR(workspace.Allocate(size_t{sizeof(double)} * elements));
    VARVE_RETURN_IF_ERROR(Copy(square.as<double>(), matrix.data(), matrix.size_bytes()));
    VARVE_RETURN_IF_ERROR(
        SolverStatus(calls_.decompose(handle_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER,
                                      width, square.as<double>(), width, spectrum.as<double>(),
                                      workspace.as<double>(), elements, info.as<int>()),
                     "cusolverDnDsyevd"));
    int failed = 0;
    VARVE_RETURN_IF_ERROR(Copy(&failed, info.as<int>(), sizeof(failed)));
    VARVE_RETURN_IF_ERROR(Copy(values.data(), spectrum.as<double>(), values.size_bytes()));
    VARVE_RETURN_IF_ERROR(Copy(vectors.data(), square.as<double>(), vectors.size_bytes()));
    if (failed == 0) return absl::OkStatus();
    return absl::InternalError(absl::StrCat("cusolverDnDsyevd: info ", failed));
  }

 private:
  // Behind what the stream has, to its end.
  absl::Status Copy(void* to, const void* from, size_t bytes) {
    VARVE_RETURN_IF_ERROR(CudaStatus(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_),
                                     "cudaMemcpyAsync"));
    return CudaStatus(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

  const Cusolver calls_;
  const int device_;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  cusolverDnHandle_t handle_ = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceSolver>> OpenCusolver() {
  int devices = 0, device = 0;
  VARVE_RETURN_IF_ERROR(CudaStatus(cudaGetDeviceCount(&devices), "cudaGetDeviceCount"));
  if (devices == 0) return absl::UnavailableError("there is no CUDA device");
  VARVE_RETURN_IF_ERROR(CudaStatus(cudaGetDevice(&device), "cudaGetDevice"));
  VARVE_ASSIGN_OR_RETURN(const Cusolver calls, Load());
  auto solver = std::make_unique<CusolverOnDevice>(calls, device);
  VARVE_RETURN_IF_ERROR(solver->Begin());
  return solver;
}

}  // namespace varve::worker
