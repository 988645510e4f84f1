#include "tests/model/eval_core.h"

#include <algorithm>
#include <chrono>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "tests/model/dense_backend.h"

namespace varve::model {
namespace {

struct ItemResult {
  uint32_t answers = 0;
  uint32_t right = 0;
  uint64_t steps = 0;
  double seconds = 0;
};

// The conversation after the prefilled part of the prompt: the rest of it and questions are fed,
// answers are the model's own tokens, fed back.
absl::StatusOr<ItemResult> RunTurns(const TinyModel& model, KvBackend& backend,
                                    const EvalItem& item, size_t prefilled) {
  const auto start = std::chrono::steady_clock::now();
  Decoder decoder(model, backend, static_cast<uint32_t>(prefilled));
  absl::Span<const float> logits;
  ItemResult result;
  for (size_t i = prefilled; i < item.prompt.size(); ++i) {
    VARVE_ASSIGN_OR_RETURN(logits, decoder.Step(item.prompt[i]));
  }
  for (const EvalTurn& turn : item.turns) {
    for (const int32_t token : turn.feed) {
      VARVE_ASSIGN_OR_RETURN(logits, decoder.Step(token));
    }
    for (const int32_t expected : turn.answer) {
      const int32_t token = Argmax(logits);
      ++result.answers;
      result.right += token == expected;
      if (&turn == &item.turns.back() && &expected == &turn.answer.back()) break;
      VARVE_ASSIGN_OR_RETURN(logits, decoder.Step(token));
    }
  }
  result.steps = decoder.position() - prefilled;
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

// One evaluation set under all policies.
class SetRunner {
 public:
  SetRunner(const TinyModel& model, const EvalOptions& options, BackendProvider& provider,
            const EvalSet& set)
      : model_(model), options_(options), provider_(provider), set_(set) {
    for (const PolicySpec& policy : options.policies) {
      rows_.push_back({.policy = policy, .task = set.task, .length = set.length});
    }
  }

  // One prompt under the policies [first, first + count), which share its prefill. after: called
  // for each.
  absl::Status RunItem(const EvalItem& item, size_t first, size_t count,
                       const std::function<void()>& after) {
    std::vector<std::unique_ptr<KvBackend>> owned;
    std::vector<KvBackend*> backends;
    for (size_t p = first; p < first + count; ++p) {
      VARVE_ASSIGN_OR_RETURN(auto backend, Open(options_.policies[p]));
      backends.push_back(backend.get());
      owned.push_back(std::move(backend));
    }
    for (const EvalRow& row : std::span(rows_).subspan(first, count)) {
      if (options_.generated_tokens + row.policy.page_tokens <= item.prompt.size()) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "generated tokens are ", options_.generated_tokens, ", allowed with a prompt of ",
          item.prompt.size(), " tokens and policy ", row.policy.name, ": up to ",
          item.prompt.size() - std::min<size_t>(row.policy.page_tokens, item.prompt.size()),
          ", a page less"));
    }
    const PrefillOptions prefill{.chunk_tokens = options_.chunk_tokens, .logits_from = ~0u};
    const size_t prefilled = item.prompt.size() - options_.generated_tokens;
    VARVE_RETURN_IF_ERROR(
        Prefill(model_, absl::MakeConstSpan(item.prompt).first(prefilled), prefill, backends)
            .status());
    for (size_t i = 0; i < count; ++i) {
      EvalRow& row = rows_[first + i];
      const auto result = RunTurns(model_, *backends[i], item, prefilled);
      if (!result.ok()) return base::Annotate(result.status(), "policy " + row.policy.name);
      ++row.prompts;
      row.prompts_right += result->right == result->answers;
      row.answers += result->answers;
      row.answers_right += result->right;
      row.decode_steps += result->steps;
      row.decode_seconds += result->seconds;
      row.stats.Add(backends[i]->Stats());
      owned[i].reset();
      after();
    }
    return absl::OkStatus();
  }

  std::vector<EvalRow> TakeRows() { return std::move(rows_); }

 private:
  absl::StatusOr<std::unique_ptr<KvBackend>> Open(const PolicySpec& policy) {
    auto backend = provider_.Open(policy);
    if (!backend.ok()) return base::Annotate(backend.status(), "policy " + policy.name);
    if (options_.mass_sample_every == 0) return backend;
    return std::unique_ptr<KvBackend>(std::make_unique<MassProbe>(
        model_.config(), model_.kernels(), *std::move(backend), options_.mass_sample_every));
  }

  const TinyModel& model_;
  const EvalOptions& options_;
  BackendProvider& provider_;
  const EvalSet& set_;
  std::vector<EvalRow> rows_;
};

absl::StatusOr<std::vector<EvalSet>> ReadSets(const EvalOptions& options, uint32_t vocab) {
  std::vector<EvalSet> sets;
  for (const uint32_t length : options.lengths) {
    for (const std::string& task : options.tasks) {
      VARVE_ASSIGN_OR_RETURN(
          EvalSet set, ReadEvalSet(options.data_dir, task, length, vocab, options.max_prompts));
      sets.push_back(std::move(set));
    }
  }
  return sets;
}

absl::Status CheckOptions(const EvalOptions& options) {
  if (options.tasks.empty() || options.lengths.empty() || options.policies.empty()) {
    return absl::InvalidArgumentError("at least one task, length and policy is needed");
  }
  if (options.sequences_at_once == 0) {
    return absl::InvalidArgumentError("sequences_at_once is 0, must be at least 1");
  }
  return absl::OkStatus();
}

}  // namespace

double EvalRow::Accuracy() const {
  return answers == 0 ? 0 : static_cast<double>(answers_right) / static_cast<double>(answers);
}

absl::StatusOr<std::vector<EvalRow>> RunEval(const TinyModel& model, const EvalOptions& options,
                                             BackendProvider& provider,
                                             const EvalProgress& progress) {
  VARVE_RETURN_IF_ERROR(CheckOptions(options));
  VARVE_ASSIGN_OR_RETURN(const std::vector<EvalSet> sets, ReadSets(options, model.config().vocab));
  const size_t policies = options.policies.size();
  uint64_t total = 0;
  for (const EvalSet& set : sets) total += set.items.size() * policies;
  uint64_t done = 0;
  if (progress) progress(0, total, "");
  std::vector<EvalRow> rows;
  for (const EvalSet& set : sets) {
    const std::string what = absl::StrCat(set.task, " ", set.length);
    SetRunner runner(model, options, provider, set);
    for (size_t i = 0; i < set.items.size(); ++i) {
      for (size_t p = 0; p < policies; p += options.sequences_at_once) {
        VARVE_RETURN_IF_ERROR(options.may_go_on());
        const size_t count = std::min<size_t>(options.sequences_at_once, policies - p);
        const absl::Status status = runner.RunItem(set.items[i], p, count, [&] {
          ++done;
          if (progress) progress(done, total, what);
        });
        VARVE_RETURN_IF_ERROR(base::Annotate(status, absl::StrCat(what, " prompt ", i)));
      }
    }
    for (EvalRow& row : runner.TakeRows()) rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<PolicySpec> CrossPolicies(absl::Span<const std::string> names,
                                      absl::Span<const double> budgets, uint32_t page_tokens) {
  std::vector<PolicySpec> policies;
  for (const std::string& name : names) {
    if (name == "full") {
      policies.push_back({name, page_tokens, 1.0});
      continue;
    }
    for (const double budget : budgets) policies.push_back({name, page_tokens, budget});
  }
  return policies;
}

}  // namespace varve::model
