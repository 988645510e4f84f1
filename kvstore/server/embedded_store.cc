#include "kvstore/server/embedded_store.h"

#include <utility>

#include "kvstore/base/status.h"
#include "kvstore/server/server.h"
#include "kvstore/transport/loopback.h"

namespace varve::server {
namespace {

class LoopbackStore final : public EmbeddedStore {
 public:
  explicit LoopbackStore(std::unique_ptr<StoreServer> server) : server_(std::move(server)) {}
  std::shared_ptr<grpc::Channel> channel() override { return server_->InProcessChannel(); }
  std::unique_ptr<transport::Transport> MakeClientTransport() override {
    return transport::MakeLoopbackTransport();
  }

 private:
  std::unique_ptr<StoreServer> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<EmbeddedStore>> EmbeddedStore::Start(
    const varve::v1::StoreConfig& config) {
  ServerOptions options;
  options.config = config;
  options.listen = false;
  options.transport = transport::MakeLoopbackTransport();
  VARVE_ASSIGN_OR_RETURN(std::unique_ptr<StoreServer> server,
                         StoreServer::Start(std::move(options)));
  return std::make_unique<LoopbackStore>(std::move(server));
}

}  // namespace varve::server
