// One engine attached to the sidecar: its shared memory, its page pool and its worker. When the
// session goes, its sequences are closed and its files are gone.
//
// Threads: all methods may be called from any thread. Every offset that the engine sends is
// checked: it must lie inside the tensor memory, be aligned to the element, and have exactly the
// tensor's size. The bytes themselves belong to the engine until the call is answered.
#pragma once

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "gpu_worker/sidecar/convert.h"
#include "gpu_worker/sidecar/shared_file.h"
#include "gpu_worker/worker.h"
#include "kvstore/base/metrics.h"
#include "kvstore/base/mutex.h"
#include "varve/v1/config.pb.h"
#include "varve/v1/worker.pb.h"

namespace varve::worker {

class EngineSession {
 public:
  // pool_bytes: what this engine may have. options: what all engines have in common, which request
  // and config complete.
  static absl::StatusOr<std::unique_ptr<EngineSession>> Create(const v1::EngineRequest& request,
                                                               const v1::WorkerConfig& config,
                                                               uint64_t pool_bytes,
                                                               client::Client* client,
                                                               WorkerOptions options);

  const std::string& id() const { return id_; }
  const std::string& name() const { return name_; }
  uint64_t pool_bytes() const { return pool_->bytes().size(); }
  Worker& worker() { return *worker_; }
  void Describe(v1::EngineReply* reply) const;

  absl::Status Append(const v1::AppendRequest& request);
  absl::Status Step(const v1::StepRequest& request);

 private:
  EngineSession() = default;

  absl::StatusOr<std::byte*> Tensor(const v1::TensorRef& ref, uint64_t bytes, size_t element,
                                    const char* what) const;

  std::string id_;
  std::string name_;
  std::unique_ptr<SharedFile> tensors_;
  std::unique_ptr<SharedFile> pool_;
  std::unique_ptr<Worker> worker_;  // before its pool
};

// The engines attached now, and what the page pool has left for more. Who gets a session from here
// holds its engine's memory: it lets go before it calls Detach.
class EngineTable {
 public:
  // metrics may be null.
  EngineTable(const v1::WorkerConfig& config, base::Metrics* metrics,
              std::shared_ptr<Eigensolver> eigensolver)
      : config_(config), common_{.metrics = metrics, .eigensolver = std::move(eigensolver)} {}

  // Engines may attach from now on. client outlives the table.
  void Open(client::Client* client);
  // RESOURCE_EXHAUSTED when the pool has no room, UNAVAILABLE before Open and after Close.
  absl::StatusOr<std::shared_ptr<EngineSession>> Attach(const v1::EngineRequest& request);
  // Waits until nobody else uses the session, then closes its sequences, all within step_deadline
  // and the time that Close gave. The engine's share of the pool is free when its memory is.
  void Detach(const std::string& id);
  // UNAUTHENTICATED when there is none, UNAVAILABLE when closed.
  absl::StatusOr<std::shared_ptr<EngineSession>> Find(const std::string& id) const;
  std::vector<std::shared_ptr<EngineSession>> All() const;
  WorkerStatus Total() const;
  // How values travel to and from the store; empty before Open.
  std::string lane() const;
  // No new engines and no new calls; sequences that are still open must be closed by then.
  void Close(absl::Time until);

 private:
  struct Attached {
    std::unique_ptr<EngineSession> session;
    std::shared_ptr<EngineSession> shared;  // the session, for those who use it; does not own it
    std::future<void> unused;               // ready when the last of them has let go
  };

  const v1::WorkerConfig config_;
  const WorkerOptions common_;
  mutable base::Mutex mutex_;
  client::Client* client_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time until_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();
  uint64_t pool_in_use_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, Attached> engines_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::worker
