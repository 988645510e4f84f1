// Evaluation results for people (tables) and programs (JSON).
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "tests/model/eval_core.h"

namespace varve::model {

// Two tables: accuracy and recall by task, length and policy; and, if any backend timed its stages,
// their time per decode step.
std::string RenderTables(absl::Span<const EvalRow> rows);

// One document {"results": [row, ...]}, indented. A row has policy, page_tokens, budget, task,
// length, prompts, prompts_right, answers, answers_right, accuracy, decode_steps,
// decode_us_per_step, pages_selected_per_step, pages_recalled_per_step, bytes_per_step,
// pages_evicted, hot_hit_ratio, attention_mass_kept (sampled truth), attention_mass_estimate (of
// the second stage), attention_mass_bound (proven at least, of all steps) and stage_us_per_step
// {name: us}. hot_hit_ratio and the masses are null where nothing was measured.
std::string RenderJson(absl::Span<const EvalRow> rows);

}  // namespace varve::model
