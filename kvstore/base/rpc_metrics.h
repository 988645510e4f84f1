// grpc_server_* families of one gRPC service, under the ecosystem's usual names.
//
// Thread-safe once built. The series live as long as the Metrics they were declared in.
#pragma once

#include <google/protobuf/descriptor.h>

#include <array>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "kvstore/base/metrics.h"

namespace varve::base {

// One method.
class RpcMetrics {
 public:
  RpcMetrics(Metrics& metrics, const google::protobuf::MethodDescriptor& method);
  void Started() { started_->Increment(); }
  void Handled(absl::StatusCode code, double seconds);

 private:
  prometheus::Counter* started_;
  std::array<prometheus::Counter*, 17> handled_;  // by code
  prometheus::Histogram* seconds_;
};

// All methods of a service, declared up front.
class ServiceMetrics {
 public:
  ServiceMetrics(Metrics& metrics, const google::protobuf::ServiceDescriptor& service);
  // By the method's name in the proto, which must exist.
  RpcMetrics& at(const std::string& method) { return methods_.at(method); }

 private:
  std::map<std::string, RpcMetrics> methods_;
};

}  // namespace varve::base
