// Between the worker's types and the sidecar's wire (proto/varve/v1/worker.proto). Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/convert.h"
#include "gpu_worker/worker.h"
#include "varve/v1/worker.pb.h"

namespace varve::worker {

namespace v1 = ::varve::v1;

using client::ToProto;
// INVALID_ARGUMENT names the field and what is allowed.
absl::StatusOr<page::Geometry> FromProto(const v1::Geometry& geometry);

absl::StatusOr<page::DigestKind> FromProto(v1::DigestKind kind);

std::string RecallPathName(RecallPath path);
absl::StatusOr<RecallPath> ParseRecallPath(const std::string& name);

void ToProto(const SequenceInfo& info, v1::SequenceInfo* out);
SequenceInfo FromProto(const v1::SequenceInfo& info);

}  // namespace varve::worker
