// RAII around UCX handles, and UCX status codes as absl::Status.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::transport {

// UCS errors of a peer that is gone or unreachable become UNAVAILABLE; what: the operation that
// failed.
absl::Status FromUcs(ucs_status_t status, std::string_view what);

// UCX writes its diagnostics to standard output by itself; this sends them to the log instead:
// errors as warnings (a dead peer is no error of this process), the rest as debug. Once per
// process.
void RouteUcxLog();

struct ContextDeleter {
  void operator()(ucp_context_h context) const { ucp_cleanup(context); }
};
using UcxContext = std::unique_ptr<ucp_context, ContextDeleter>;

struct WorkerDeleter {
  void operator()(ucp_worker_h worker) const { ucp_worker_destroy(worker); }
};
using UcxWorker = std::unique_ptr<ucp_worker, WorkerDeleter>;

// settings: names without the UCX_ prefix. features: UCP_FEATURE_*.
absl::StatusOr<UcxContext> MakeUcxContext(
    const std::vector<std::pair<std::string, std::string>>& settings, uint64_t features);
absl::StatusOr<UcxWorker> MakeUcxWorker(ucp_context_h context);
// The bytes by which a peer connects to the worker.
absl::StatusOr<std::string> UcxWorkerAddress(ucp_worker_h worker);

// Memory mapped by a context: the caller's own, or allocated by UCX. Movable.
class UcxMemory {
 public:
  // address null: UCX allocates. Zero-filled then.
  static absl::StatusOr<UcxMemory> Map(ucp_context_h context, void* address, size_t bytes);
  ~UcxMemory();
  UcxMemory(UcxMemory&& other) noexcept
      : context_(other.context_),
        memory_(std::exchange(other.memory_, nullptr)),
        address_(other.address_) {}
  UcxMemory& operator=(UcxMemory&&) = delete;

  void* address() const { return address_; }
  absl::StatusOr<std::string> PackKey() const;

 private:
  UcxMemory(ucp_context_h context, ucp_mem_h memory) : context_(context), memory_(memory) {}

  ucp_context_h context_;
  ucp_mem_h memory_;
  void* address_ = nullptr;
};

}  // namespace varve::transport
