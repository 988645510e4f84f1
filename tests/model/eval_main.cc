// varve-eval: a trained model answers questions with its KV cache in Varve.
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>

#include "client/console/output.h"
#include "client/console/progress.h"
#include "client/console/stop.h"
#include "kvstore/base/program.h"
#include "kvstore/base/status.h"
#include "tests/model/eval_args.h"
#include "tests/model/eval_core.h"
#include "tests/model/eval_curve.h"
#include "tests/model/eval_deployment.h"
#include "tests/model/eval_report.h"
#include "tests/model/worker_backend.h"

namespace varve::model {
namespace {

// What can be known to be wrong before any process is started.
absl::Status Check(const EvalArgs& args) {
  // Minutes before it is written.
  if (!args.plot.empty() && !std::ofstream(args.plot, std::ios::app)) {
    return absl::InvalidArgumentError("--plot: " + args.plot + ": cannot be written");
  }
  VARVE_RETURN_IF_ERROR(
      base::Annotate(CheckPolicies(args.eval.policies, args.policy_parameters), "--policies"));
  return CheckEvalSets(args.eval.data_dir, args.eval.tasks, args.eval.lengths);
}

absl::Status Plot(const std::string& path, const std::vector<EvalRow>& rows) {
  if (path.empty()) return absl::OkStatus();
  std::ofstream file(path);
  file << RenderCurves(rows);
  file.close();
  if (!file) return absl::UnavailableError("--plot: " + path + ": cannot be written");
  return absl::OkStatus();
}

absl::Status Run(const EvalArgs& args) {
  VARVE_ASSIGN_OR_RETURN(const TinyModel model,
                         TinyModel::Load(args.model_dir, {.threads = args.threads}));
  VARVE_ASSIGN_OR_RETURN(const auto deployment,
                         RunningDeployment::Start(args.deployment, model.config(),
                                                  args.eval.policies.at(0).page_tokens));
  if (!args.json) std::cout << deployment->Describe() << '\n' << std::flush;

  WorkerProvider provider(deployment->worker(), model, args.policy_parameters);
  std::unique_ptr<console::Progress> progress;
  EvalOptions eval = args.eval;
  eval.may_go_on = console::CheckStopped;
  const auto rows =
      RunEval(model, eval, provider, [&](uint64_t done, uint64_t total, const std::string& what) {
        if (progress == nullptr)
          progress = std::make_unique<console::Progress>("evaluation", total);
        if (done > 0) progress->Update(done, what);
      });
  VARVE_RETURN_IF_ERROR(rows.status());
  if (progress != nullptr) progress->Finish();
  std::cout << (args.json ? RenderJson(*rows) + "\n"
                          : RenderTables(*rows) + RenderEqualAccuracy(*rows));
  VARVE_RETURN_IF_ERROR(console::FlushOutput());
  return Plot(args.plot, *rows);
}

int WrongUsage(const absl::Status& why) {
  std::cerr << "varve-eval: " << why.message() << "\nvarve-eval --help tells what is allowed\n";
  return 2;
}

int Main(int argc, char** argv) {
  base::SetUpProcess();
  const auto args = ParseEvalArgs({argv + 1, argv + argc}, VARVE_TEST_DATA_DIR);
  if (!args.ok()) return WrongUsage(args.status());
  if (args->help) {
    std::cout << args->help_text;
    return 0;
  }
  if (const absl::Status status = Check(*args); !status.ok()) return WrongUsage(status);
  console::StopOnSignals();
  if (const absl::Status status = Run(*args); !status.ok()) {
    std::cerr << "varve-eval: " << status.message() << '\n';
    return console::Stopped() ? console::kInterrupted : 1;
  }
  return 0;
}

}  // namespace
}  // namespace varve::model

int main(int argc, char** argv) { return varve::model::Main(argc, argv); }
