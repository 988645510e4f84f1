// A whole store inside this process: the same services over gRPC's in-process channel, bytes by the
// loopback transport.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kvstore/transport/transport.h"
#include "varve/v1/config.pb.h"

namespace grpc {
class Channel;
}

namespace varve::server {

class EmbeddedStore {
 public:
  // config: as for varve-store; listen, http_listen and transport are not used.
  static absl::StatusOr<std::unique_ptr<EmbeddedStore>> Start(const varve::v1::StoreConfig& config);
  virtual ~EmbeddedStore() = default;
  virtual std::shared_ptr<grpc::Channel> channel() = 0;
  // A loopback transport for a client of this store; each client has its own.
  virtual std::unique_ptr<transport::Transport> MakeClientTransport() = 0;
};

// The defaults of every setting (kvstore/server/config.cc).
varve::v1::StoreConfig DefaultStoreConfig();

}  // namespace varve::server
