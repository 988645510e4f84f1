// The command line of varve-eval.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/model/eval_core.h"

namespace varve::model {

// Where store and worker run, and how the worker is set up.
struct Deployment {
  bool embedded = false;          // store and worker inside this process
  bool linked = false;            // worker inside this process, store outside
  std::string worker;             // address of a running varve-worker; empty: start one
  std::string store;              // address of a running varve-store; empty: start one
  std::string transport = "shm";  // between the worker and the store
  std::string dtype = "f32";      // of keys and values in pages
  std::string digest = "minmax";
  std::string recall_path = "worker";  // who scores
  uint64_t pool_bytes = 256ull << 20;
};

struct EvalArgs {
  EvalOptions eval;
  Deployment deployment;
  std::string policy_parameters;  // added to each policy that selects: "merge=max"
  std::string model_dir;
  int threads = 2;
  std::string plot;   // an SVG file of accuracy over bytes; empty: none
  bool json = false;  // one document on stdout instead of tables
  bool help = false;  // or the version was asked for: only help_text is set
  std::string help_text;
};

// default_dir: where the model and the evaluation sets are looked for unless the user says
// otherwise. INVALID_ARGUMENT, with what is allowed: an unknown option, a value that is no number
// or out of range, an empty list.
absl::StatusOr<EvalArgs> ParseEvalArgs(const std::vector<std::string>& args,
                                       const std::string& default_dir);

// "full,arkvale(hot=3,sinks=2)" -> its policies: commas inside parentheses belong to the policy.
// INVALID_ARGUMENT for an empty name or unbalanced parentheses.
absl::StatusOr<std::vector<std::string>> SplitPolicies(const std::string& text);

}  // namespace varve::model
