// A running store: rooms, services, gRPC and HTTP, wired together.
//
// Start makes everything and serves; Shutdown drains: no new sessions, open streams are closed,
// transfers in flight finish, at most for the grace period, then what is left is cancelled. The
// destructor shuts down if nobody did. Threads: StartDraining and the accessors from any thread;
// Shutdown once, from one thread.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/transport/transport.h"
#include "varve/v1/config.pb.h"

namespace varve::server {

struct ServerOptions {
  varve::v1::StoreConfig config;
  std::string config_text;  // for GetConfig, as --print-config prints it
  bool listen = true;  // on config.listen and config.http_listen; false: in-process channel only
  std::unique_ptr<transport::Transport> transport;
};

class StoreServer {
 public:
  // INVALID_ARGUMENT for a bad config (all problems), UNAVAILABLE when an address cannot be bound.
  static absl::StatusOr<std::unique_ptr<StoreServer>> Start(ServerOptions options);
  ~StoreServer();
  StoreServer(const StoreServer&) = delete;
  StoreServer& operator=(const StoreServer&) = delete;

  std::shared_ptr<grpc::Channel> InProcessChannel();
  // As bound: "127.0.0.1:41233". Empty when not served.
  const std::string& grpc_address() const;
  const std::string& http_address() const;

  // Refuses new sessions, reports not serving and closes the streams of open sessions. Returns at
  // once; idempotent.
  void StartDraining();
  // True when everything in flight finished within the grace period.
  bool Shutdown(absl::Duration grace);

 private:
  struct Impl;
  explicit StoreServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace varve::server
