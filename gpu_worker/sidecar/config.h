// Settings of varve-worker: defaults and the checks that a single field's type cannot express.
#pragma once

#include "absl/status/status.h"
#include "varve/v1/config.pb.h"

namespace varve::worker {

varve::v1::WorkerConfig DefaultWorkerConfig();

// INVALID_ARGUMENT lists every problem, one per line, each naming the field and what is allowed.
absl::Status ValidateWorkerConfig(const varve::v1::WorkerConfig& config);

}  // namespace varve::worker
