// What accuracy costs: results of several budgets as curves of accuracy over bytes recalled.
#pragma once

#include <string>

#include "absl/types/span.h"
#include "tests/model/eval_core.h"

namespace varve::model {

// Of full's accuracy: what counts as equal.
inline constexpr double kEqualAccuracy = 0.99;

// By task, length and policy, the fewest bytes per step with which the policy came to
// kEqualAccuracy of full's accuracy, the budget that took, and both as multiples of the policy that
// needed the least. Empty unless some set has full and a policy with two budgets.
std::string RenderEqualAccuracy(absl::Span<const EvalRow> rows);

// One plot for each task and length, a line for each policy but full.
std::string RenderCurves(absl::Span<const EvalRow> rows);

}  // namespace varve::model
