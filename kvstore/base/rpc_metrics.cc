#include "kvstore/base/rpc_metrics.h"

namespace varve::base {
namespace {

constexpr const char* kCodeNames[17] = {
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};

std::string CallType(const google::protobuf::MethodDescriptor& method) {
  if (method.client_streaming() && method.server_streaming()) return "bidi_stream";
  if (method.client_streaming()) return "client_stream";
  return method.server_streaming() ? "server_stream" : "unary";
}

}  // namespace

RpcMetrics::RpcMetrics(Metrics& metrics, const google::protobuf::MethodDescriptor& method) {
  Labels labels = {{"grpc_type", CallType(method)},
                   {"grpc_service", method.service()->full_name()},
                   {"grpc_method", method.name()}};
  started_ = &metrics.Counter("grpc_server_started_total", "RPCs started on the server.", labels);
  seconds_ = &metrics.Histogram("grpc_server_handling_seconds",
                                "Time from the start of an RPC to its status, on the server.",
                                labels, LatencyBuckets());
  for (int code = 0; code < 17; ++code) {
    labels["grpc_code"] = kCodeNames[code];
    handled_[code] = &metrics.Counter("grpc_server_handled_total",
                                      "RPCs completed on the server, by status code.", labels);
  }
}

void RpcMetrics::Handled(absl::StatusCode code, double seconds) {
  const int index = static_cast<int>(code);
  handled_[index >= 0 && index < 17 ? index : 2]->Increment();
  seconds_->Observe(seconds);
}

ServiceMetrics::ServiceMetrics(Metrics& metrics,
                               const google::protobuf::ServiceDescriptor& service) {
  for (int i = 0; i < service.method_count(); ++i) {
    const google::protobuf::MethodDescriptor& method = *service.method(i);
    methods_.emplace(method.name(), RpcMetrics(metrics, method));
  }
}

}  // namespace varve::base
