// Runs evaluation sets through the model under KV policies and counts the right answers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tests/model/eval_data.h"
#include "tests/model/kv_backend.h"
#include "tests/model/sequence.h"
#include "tests/model/tiny_model.h"

namespace varve::model {

// Where the KV of the sequences lives: the seam between the evaluation and a KV service.
class BackendProvider {
 public:
  virtual ~BackendProvider() = default;
  // A backend for one new sequence under this policy; destroying it closes the sequence.
  virtual absl::StatusOr<std::unique_ptr<KvBackend>> Open(const PolicySpec& policy) = 0;
};

struct EvalOptions {
  std::string data_dir;
  std::vector<std::string> tasks;
  std::vector<uint32_t> lengths;
  std::vector<PolicySpec> policies;
  uint32_t max_prompts = 0;        // per task and length; 0: all of the set
  uint32_t sequences_at_once = 8;  // policies that share one prefill; bounds the service's memory
  // One of this many attention calls is compared with full attention; 0: none.
  uint32_t mass_sample_every = 16;
  uint32_t chunk_tokens = PrefillOptions().chunk_tokens;
  // So many last tokens of each prompt, all but one at most, come one by one as if the model had
  // generated them: what follows them asks how a long generation is remembered.
  uint32_t generated_tokens = 0;
  // Asked before each prompt; an error ends the evaluation.
  std::function<absl::Status()> may_go_on = [] { return absl::OkStatus(); };
};

// One policy on one evaluation set.
struct EvalRow {
  PolicySpec policy;
  std::string task;
  uint32_t length = 0;
  uint32_t prompts = 0;
  uint32_t prompts_right = 0;  // every answer token right
  uint64_t answers = 0;        // answer tokens
  uint64_t answers_right = 0;
  uint64_t decode_steps = 0;
  double decode_seconds = 0;  // wall time of all decode steps, model included
  BackendStats stats;

  // Share of the answer tokens that are right.
  double Accuracy() const;
};

// Called from the evaluation's thread at its start and after each (prompt, policy); `what` names
// the set.
using EvalProgress = std::function<void(uint64_t done, uint64_t total, const std::string& what)>;

// All rows, sets in the order asked, policies in order within a set. Every set is read before the
// first prompt runs, so that a wrong name costs no time. INVALID_ARGUMENT for empty lists; else the
// first error of a file, the model or a backend, which names set, prompt and policy.
absl::StatusOr<std::vector<EvalRow>> RunEval(const TinyModel& model, const EvalOptions& options,
                                             BackendProvider& provider,
                                             const EvalProgress& progress);

// Every policy with every budget; "full" once, with a budget of 1.
std::vector<PolicySpec> CrossPolicies(absl::Span<const std::string> names,
                                      absl::Span<const double> budgets, uint32_t page_tokens);

}  // namespace varve::model
