// The worker that an evaluation talks to, and everything behind it: processes of its own, ones that
// run already, or all inside this process. Ends with the object.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gpu_worker/worker.h"
#include "tests/model/eval_args.h"
#include "tests/model/tiny_model.h"

namespace varve::model {

class RunningDeployment {
 public:
  // page_tokens: of the worker's geometry; the rest of it is the model's. UNAVAILABLE, naming the
  // program, when store or worker do not start or answer.
  static absl::StatusOr<std::unique_ptr<RunningDeployment>> Start(const Deployment& deployment,
                                                                  const ModelConfig& config,
                                                                  uint32_t page_tokens);
  virtual ~RunningDeployment() = default;
  virtual worker::Worker& worker() = 0;
  // For people: "varve-store (pid 12) <- shm -> varve-worker (pid 13)".
  virtual std::string Describe() const = 0;
};

}  // namespace varve::model
