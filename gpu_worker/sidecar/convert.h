// Between the worker's types and the sidecar's wire (proto/varve/v1/worker.proto). Pure functions.
#pragma once

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/worker.h"
#include "varve/v1/worker.pb.h"

namespace varve::worker {

namespace v1 = ::varve::v1;

// gRPC and absl number their codes alike.
grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

v1::Geometry ToProto(const page::Geometry& geometry);
// INVALID_ARGUMENT names the field and what is allowed.
absl::StatusOr<page::Geometry> FromProto(const v1::Geometry& geometry);

v1::DigestKind ToProto(page::DigestKind kind);
absl::StatusOr<page::DigestKind> FromProto(v1::DigestKind kind);

std::string RecallPathName(RecallPath path);
absl::StatusOr<RecallPath> ParseRecallPath(const std::string& name);

void ToProto(const SequenceInfo& info, v1::SequenceInfo* out);
SequenceInfo FromProto(const v1::SequenceInfo& info);

}  // namespace varve::worker
