// One unary RPC: hands request and reply to a handler and finishes when the handler answers.
#pragma once

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/time/clock.h"
#include "kvstore/base/grpc_status.h"
#include "kvstore/server/core.h"
#include "kvstore/server/metrics.h"

namespace varve::server {

// Deletes itself when gRPC is done with it; request and reply, owned by gRPC, live until then.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  explicit UnaryCall(base::RpcMetrics& metrics) : metrics_(metrics) { metrics_.Started(); }

  // handler(Answer): called here and now.
  template <typename Handler>
  grpc::ServerUnaryReactor* Run(Handler&& handler) {
    handler(Answer([this](absl::Status status) { Complete(status); }));
    return this;
  }

 private:
  void Complete(const absl::Status& status) {
    metrics_.Handled(status.code(), absl::ToDoubleSeconds(absl::Now() - start_));
    Finish(base::ToGrpc(status));
  }
  void OnDone() override { delete this; }

  base::RpcMetrics& metrics_;
  const absl::Time start_ = absl::Now();
};

}  // namespace varve::server
