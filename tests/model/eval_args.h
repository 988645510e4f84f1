// The command line of varve-eval.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/model/eval_core.h"

namespace varve::model {

struct EvalArgs {
  EvalOptions eval;
  std::string model_dir;
  int threads = 2;
  bool embedded = false;  // store and worker inside this process
  bool json = false;      // one document on stdout instead of tables
  bool help = false;      // only help_text is set
  std::string help_text;
};

// default_dir: where the model and the evaluation sets are looked for unless the user says
// otherwise. INVALID_ARGUMENT, with what is allowed: an unknown option, a value that is no number
// or out of range, an empty list.
absl::StatusOr<EvalArgs> ParseEvalArgs(const std::vector<std::string>& args,
                                       const std::string& default_dir);

// "full,arkvale(budget=0.1,hot=3)" -> its policies: commas inside parentheses belong to the policy.
// INVALID_ARGUMENT for an empty name or unbalanced parentheses.
absl::StatusOr<std::vector<std::string>> SplitPolicies(const std::string& text);

}  // namespace varve::model
