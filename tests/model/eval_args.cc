#include "tests/model/eval_args.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/base/version.h"
#include "kvstore/page/rerank.h"

namespace varve::model {
namespace {

constexpr char kExamples[] = R"text(
By default varve-eval starts a varve-store and a varve-worker and talks to the worker as an engine would. Examples:
  varve-eval --policies full,arkvale --budgets 0.05,0.1 --tasks niah_multikey --lengths 4096 --prompts 20
  varve-eval --policies arkvale --policy-parameters merge=max --recall-path store --transport tcp
  varve-eval --policies arkvale --recall-path store --rerank exact --multiplier 4 --lengths 1024
  varve-eval --policies "full,arkvale(hot=1),arkvale(hot=1,rerank=exact)" --recall-path store --budgets 0.05,0.1,0.2,0.4,0.6,0.8 \
             --tasks niah_multikey --lengths 1024 --plot curves.svg
  varve-eval --embedded --policies full,streaming,quest,arkvale --lengths 1024 --json
)text";

// What the options are read into before they are combined.
struct Raw {
  std::string policies = "full,streaming,quest,arkvale";
  std::vector<double> budgets = {0.1};
  uint32_t page_tokens = 32;
  std::string rerank = "none";
  double multiplier = page::kDefaultMultiplier;
};

void AddSelection(CLI::App& app, Raw& raw, EvalOptions& eval) {
  app.add_option("--policies", raw.policies,
                 "KV policies: name or name(key=value,...); oracle: the pages of most attention, "
                 "as a limit")
      ->capture_default_str();
  app.add_option("--budgets", raw.budgets, "share of the prompt's pages each policy may attend to")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--rerank", raw.rerank,
                 "second stage of arkvale and shadowkv: none; exact, by the keys, in the store; or "
                 "sketch, by sketches of them")
      ->check(CLI::IsMember({"none", "exact", "sketch"}))
      ->capture_default_str();
  app.add_option("--multiplier", raw.multiplier,
                 "candidates of the second stage, in multiples of the budget")
      ->check(CLI::Range(page::kMinMultiplier, page::kMaxMultiplier))
      ->capture_default_str();
  app.add_option("--page-tokens", raw.page_tokens, "tokens in a page")
      ->check(CLI::IsMember({8, 16, 32}))
      ->capture_default_str();
  app.add_option("--tasks", eval.tasks, "evaluation tasks")->delimiter(',')->capture_default_str();
  app.add_option("--lengths", eval.lengths, "prompt lengths in tokens")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--prompts", eval.max_prompts, "prompts per task and length, 0 for all")
      ->capture_default_str();
}

void AddRun(CLI::App& app, EvalArgs& args) {
  app.add_option("--data", args.eval.data_dir, "directory of eval_{task}_{length}.jsonl.gz")
      ->capture_default_str();
  app.add_option("--model", args.model_dir, "directory of model.safetensors and config.json")
      ->capture_default_str();
  app.add_option("--chunk-tokens", args.eval.chunk_tokens, "prompt tokens per prefill chunk")
      ->check(CLI::Range(1u, 1u << 18))
      ->capture_default_str();
  app.add_option("--generated-tokens", args.eval.generated_tokens,
                 "last tokens of each prompt that come one by one, as if the model had made them")
      ->check(CLI::Range(0u, 1u << 18))
      ->capture_default_str();
  app.add_option("--mass-sample-every", args.eval.mass_sample_every,
                 "compare one of this many attention calls with full attention, 0 for none")
      ->capture_default_str();
  app.add_option("--sequences", args.eval.sequences_at_once, "policies that share one prefill")
      ->check(CLI::Range(1u, 64u))
      ->capture_default_str();
  app.add_option("--threads", args.threads, "threads of the model's prefill")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--policy-parameters", args.policy_parameters,
                 "added to the policies that select, such as merge=max");
  app.add_option("--plot", args.plot,
                 "also draw accuracy over bytes recalled per step into this SVG file");
  app.add_flag("--json", args.json, "one JSON document on stdout instead of tables");
}

uint64_t ParsePool(const std::string& text) {
  const absl::StatusOr<uint64_t> bytes = base::ParseBytes(text);
  if (!bytes.ok())
    throw CLI::ValidationError("--pool-bytes", std::string(bytes.status().message()));
  if (*bytes < (uint64_t{1} << 20) || *bytes > (uint64_t{1} << 40)) {
    throw CLI::ValidationError("--pool-bytes", text + ": allowed 1MiB to 1TiB");
  }
  return *bytes;
}

void AddDeployment(CLI::App& app, Deployment& deployment) {
  auto* embedded =
      app.add_flag("--embedded", deployment.embedded, "store and worker inside this process");
  auto* linked =
      app.add_flag("--linked", deployment.linked, "worker inside this process, store outside")
          ->excludes(embedded);
  auto* worker = app.add_option("--worker", deployment.worker,
                                "address of a running varve-worker (default: start one)")
                     ->excludes(embedded)
                     ->excludes(linked);
  app.add_option("--store", deployment.store,
                 "address of a running varve-store (default: start one)")
      ->excludes(embedded)
      ->excludes(worker);
  app.add_option("--transport", deployment.transport, "how bytes travel between worker and store")
      ->check(CLI::IsMember({"shm", "tcp", "inline"}))
      ->capture_default_str();
  app.add_option("--dtype", deployment.dtype, "element type of the pages")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->capture_default_str();
  app.add_option("--digest", deployment.digest, "how pages are summed up")
      ->check(CLI::IsMember({"minmax", "box_mean", "mean", "sphere", "sign1", "sign2", "sign4",
                             "minmax_sign1", "minmax_sign2", "minmax_sign4"}))
      ->capture_default_str();
  app.add_option("--recall-path", deployment.recall_path, "who scores the pages")
      ->check(CLI::IsMember({"worker", "store"}))
      ->capture_default_str();
  app.add_option_function<std::string>(
         "--pool-bytes",
         [&deployment](const std::string& text) { deployment.pool_bytes = ParsePool(text); },
         "page pool of a worker started or linked here")
      ->default_str(base::FormatBytes(deployment.pool_bytes));
}

// "arkvale(hot=3)" -> "arkvale(hot=3,rerank=exact,multiplier=4)", and shadowkv; other policies stay
// as they are.
std::string WithRerank(const std::string& name, const Raw& raw) {
  if (raw.rerank == "none") return name;
  if (!absl::StartsWith(name, "arkvale") && !absl::StartsWith(name, "shadowkv")) return name;
  const std::string parameters =
      absl::StrCat("rerank=", raw.rerank, ",multiplier=", raw.multiplier, ")");
  return name.back() == ')' ? absl::StrCat(name.substr(0, name.size() - 1), ",", parameters)
                            : absl::StrCat(name, "(", parameters);
}

// What no single option can tell.
absl::Status Combine(const Raw& raw, EvalArgs* args) {
  for (const double budget : raw.budgets) {
    if (!(budget > 0 && budget <= 1)) {
      return absl::InvalidArgumentError(absl::StrCat("--budgets: ", budget, ", must be in (0, 1]"));
    }
  }
  for (const uint32_t length : args->eval.lengths) {
    if (length == 0) return absl::InvalidArgumentError("--lengths: 0, must be at least 1");
  }
  auto names = SplitPolicies(raw.policies);
  if (!names.ok()) return base::Annotate(names.status(), "--policies");
  for (std::string& name : *names) {
    if (absl::StrContains(name, "budget=")) {
      return absl::InvalidArgumentError(
          absl::StrCat("--policies: ", name, ": budgets are given with --budgets"));
    }
    name = WithRerank(name, raw);
  }
  if (!args->plot.empty() && !absl::EndsWith(args->plot, ".svg")) {
    return absl::InvalidArgumentError(
        absl::StrCat("--plot: '", args->plot, "': plots are SVG; allowed: names that end in .svg"));
  }
  const Deployment& deployment = args->deployment;
  if (raw.rerank == "sketch" && !absl::StrContains(deployment.digest, "sign")) {
    return absl::InvalidArgumentError(absl::StrCat("--rerank sketch: --digest ", deployment.digest,
                                                   " has no sketch; try minmax_sign2"));
  }
  if (raw.rerank == "exact" && deployment.recall_path != "store") {
    return absl::InvalidArgumentError(
        absl::StrCat("--rerank ", raw.rerank, ": the store has the keys; add --recall-path store"));
  }
  if (deployment.transport == "inline" && !deployment.embedded && !deployment.linked) {
    return absl::InvalidArgumentError(
        "--transport inline: varve-worker takes shm or tcp; inline needs --linked or --embedded");
  }
  args->eval.policies = CrossPolicies(*names, raw.budgets, raw.page_tokens);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> SplitPolicies(const std::string& text) {
  std::vector<std::string> names(1);
  int depth = 0;
  for (const char c : text) {
    depth += c == '(' ? 1 : c == ')' ? -1 : 0;
    if (depth < 0 || depth > 1) break;
    if (c == ',' && depth == 0) {
      names.emplace_back();
    } else {
      names.back() += c;
    }
  }
  if (depth != 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": unbalanced parentheses"));
  }
  if (std::any_of(names.begin(), names.end(), [](const auto& name) { return name.empty(); })) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": empty policy name"));
  }
  return names;
}

absl::StatusOr<EvalArgs> ParseEvalArgs(const std::vector<std::string>& args,
                                       const std::string& default_dir) {
  EvalArgs parsed{.model_dir = default_dir};
  parsed.eval.data_dir = default_dir;
  parsed.eval.tasks = {"niah_single", "niah_multikey", "niah_multiquery", "vt", "agg"};
  parsed.eval.lengths = {4096};
  parsed.eval.max_prompts = 20;
  Raw raw;
  CLI::App app("Answers of a small trained model whose KV cache lives in Varve", "varve-eval");
  AddSelection(app, raw, parsed.eval);
  AddRun(app, parsed);
  AddDeployment(app, parsed.deployment);
  app.set_version_flag("--version", base::VersionText("varve-eval"));
  app.footer(kExamples);
  try {
    // CLI11 takes the last argument first.
    app.parse(std::vector<std::string>(args.rbegin(), args.rend()));
  } catch (const CLI::CallForHelp&) {
    parsed.help = true;
    parsed.help_text = app.help();
    return parsed;
  } catch (const CLI::CallForVersion& version) {
    parsed.help = true;
    parsed.help_text = std::string(version.what()) + "\n";
    return parsed;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  VARVE_RETURN_IF_ERROR(Combine(raw, &parsed));
  return parsed;
}

}  // namespace varve::model
