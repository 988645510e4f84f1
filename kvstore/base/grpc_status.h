// absl::Status over gRPC: the codes are the same numbers. Only for targets that link gRPC.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"

namespace varve::base {

// A message travels as metadata, of which peers take 8 KiB, and each byte that is not plain text as
// three: longer ones are cut, or the peer would see another error.
constexpr size_t kMaxStatusMessageBytes = 2048;

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  std::string message(status.message().substr(0, kMaxStatusMessageBytes));
  if (message.size() < status.message().size()) message += "...";
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message);
}

inline absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace varve::base
