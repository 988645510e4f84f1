// The running sidecar: gRPC for engines, HTTP for people and Prometheus.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/client.h"
#include "varve/v1/config.pb.h"

namespace varve::worker {

class WorkerServer {
 public:
  // config: validated. Serves at once, but engines have to wait for Open. UNAVAILABLE when an
  // address cannot be bound or another process serves there.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const varve::v1::WorkerConfig& config);
  // client: connected to the store. Once.
  void Open(std::unique_ptr<client::Client> client);
  // Shuts down at once if Shutdown was not called.
  ~WorkerServer();

  // Bound addresses; http is empty without one.
  const std::string& grpc_address() const;
  const std::string& http_address() const;
  // Asks the store: OK when it answers and does not drain; else why not. Takes some seconds at
  // most.
  absl::Status AskStore() const;
  // No new engines; calls under way have `grace` to finish, then are cancelled; sequences are
  // closed in what is left of it.
  void Shutdown(absl::Duration grace);

 private:
  struct Impl;
  explicit WorkerServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace varve::worker
