// The service as the evaluation's KV cache: one sequence of a Varve worker per backend.
// One thread per object; several objects may share a worker.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gpu_worker/worker.h"
#include "tests/model/eval_core.h"
#include "tests/model/kv_backend.h"
#include "tests/model/tiny_model.h"

namespace varve::model {

// INVALID_ARGUMENT for the first policy that no worker would take, with those that are known.
absl::Status CheckPolicies(absl::Span<const PolicySpec> policies,
                           const std::string& extra_parameters);

// Opens sequences with the policy "name(budget=..., <extra>)"; extra: more parameters of
// gpu_worker/policy.h, such as "merge=max", for the policies that select. "oracle" is no policy of
// the service but what it is measured against: selection_backend.h, in this process. Worker and
// model must outlive the provider and its backends.
class WorkerProvider final : public BackendProvider {
 public:
  WorkerProvider(worker::Worker& worker, const TinyModel& model, std::string extra_parameters)
      : worker_(worker), model_(model), extra_parameters_(std::move(extra_parameters)) {}

  absl::StatusOr<std::unique_ptr<KvBackend>> Open(const PolicySpec& policy) override;

 private:
  worker::Worker& worker_;
  const TinyModel& model_;
  const std::string extra_parameters_;
};

}  // namespace varve::model
