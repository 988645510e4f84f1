#include "tests/model/eval_curve.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/console/line_plot.h"
#include "client/console/table.h"

namespace varve::model {
namespace {

using console::Align;

double BytesPerStep(const EvalRow& row) {
  if (row.decode_steps == 0) return 0;
  return static_cast<double>(row.stats.bytes_recalled) / static_cast<double>(row.decode_steps);
}

// One policy on one set.
struct Curve {
  std::string name;
  std::vector<const EvalRow*> rows;  // by budget, smallest first

  // The row of fewest bytes with this accuracy.
  const EvalRow* Cheapest(double accuracy) const {
    const EvalRow* cheapest = nullptr;
    for (const EvalRow* row : rows) {
      if (row->Accuracy() < accuracy) continue;
      if (cheapest == nullptr || BytesPerStep(*row) < BytesPerStep(*cheapest)) cheapest = row;
    }
    return cheapest;
  }
};

struct CurveSet {
  std::string task;
  uint32_t length = 0;
  std::optional<double> full;
  std::vector<Curve> curves;
};

// In the order of the rows.
std::vector<CurveSet> Group(absl::Span<const EvalRow> rows) {
  std::vector<CurveSet> sets;
  for (const EvalRow& row : rows) {
    if (sets.empty() || sets.back().task != row.task || sets.back().length != row.length) {
      sets.push_back({.task = row.task, .length = row.length});
    }
    CurveSet& set = sets.back();
    if (row.policy.name == "full") {
      set.full = row.Accuracy();
      continue;
    }
    auto curve = std::find_if(set.curves.begin(), set.curves.end(),
                              [&](const Curve& c) { return c.name == row.policy.name; });
    if (curve == set.curves.end()) {
      set.curves.push_back({.name = row.policy.name, .rows = {}});
      curve = std::prev(set.curves.end());
    }
    curve->rows.push_back(&row);
  }
  for (CurveSet& set : sets) {
    for (Curve& curve : set.curves) {
      std::stable_sort(
          curve.rows.begin(), curve.rows.end(),
          [](const EvalRow* a, const EvalRow* b) { return a->policy.budget < b->policy.budget; });
    }
  }
  return sets;
}

bool HasCurves(const CurveSet& set) {
  return set.full.has_value() && std::any_of(set.curves.begin(), set.curves.end(),
                                             [](const Curve& c) { return c.rows.size() > 1; });
}

std::string Times(double value, double least) {
  return least > 0 ? absl::StrFormat("%.1f", value / least) : "-";
}

void AddSet(const CurveSet& set, console::Table& table) {
  std::vector<const EvalRow*> found;
  std::optional<double> least_bytes, least_budget;
  for (const Curve& curve : set.curves) {
    const EvalRow* row = curve.Cheapest(kEqualAccuracy * *set.full);
    found.push_back(row);
    if (row == nullptr) continue;
    least_budget = std::min(least_budget.value_or(row->policy.budget), row->policy.budget);
    least_bytes = std::min(least_bytes.value_or(BytesPerStep(*row)), BytesPerStep(*row));
  }
  for (size_t i = 0; i < found.size(); ++i) {
    std::vector<std::string> cells = {set.task, absl::StrCat(set.length), set.curves[i].name};
    if (const EvalRow* row = found[i]; row != nullptr) {
      cells.push_back(absl::StrFormat("%.1f %%", 100 * row->policy.budget));
      cells.push_back(Times(row->policy.budget, *least_budget));
      cells.push_back(absl::StrFormat("%.1f", BytesPerStep(*row) / 1024));
      cells.push_back(Times(BytesPerStep(*row), *least_bytes));
    } else {
      cells.push_back("none of these");
    }
    table.AddRow(std::move(cells));
  }
}

}  // namespace

std::string RenderEqualAccuracy(absl::Span<const EvalRow> rows) {
  console::Table table({{"task"},
                        {"length", Align::kRight},
                        {"policy"},
                        {"budget", Align::kRight},
                        {"times the least", Align::kRight},
                        {"KiB/step", Align::kRight},
                        {"times the least", Align::kRight}});
  bool any = false;
  for (const CurveSet& set : Group(rows)) {
    if (!HasCurves(set)) continue;
    if (any) table.AddRule();
    AddSet(set, table);
    any = true;
  }
  if (!any) return "";
  return absl::StrFormat("\nthe fewest bytes with %.0f %% of full's accuracy, and their budget\n%s",
                         100 * kEqualAccuracy, table.Render());
}

std::string RenderCurves(absl::Span<const EvalRow> rows) {
  std::vector<console::LinePlot> plots;
  for (const CurveSet& set : Group(rows)) {
    console::LinePlot plot{.title = absl::StrCat(set.task, ", ", set.length, " tokens"),
                           .x_name = "KiB recalled per step",
                           .x_marks = {},
                           .y_marks = {},
                           .lines = {},
                           .dots = true};
    double most = 0;
    for (const Curve& curve : set.curves) {
      console::PlotLine line{.name = curve.name, .points = {}};
      for (const EvalRow* row : curve.rows) {
        line.points.emplace_back(BytesPerStep(*row) / 1024, row->Accuracy());
        most = std::max(most, line.points.back().first);
      }
      plot.lines.push_back(std::move(line));
    }
    for (int i = 0; i <= 4; ++i) {
      const double at = std::max(most, 1.0) * i / 4;
      plot.x_marks.emplace_back(at, absl::StrFormat("%.0f", at));
    }
    for (int percent = 0; percent <= 100; percent += 20) {
      plot.y_marks.emplace_back(percent / 100.0, absl::StrCat(percent, " %"));
    }
    plots.push_back(std::move(plot));
  }
  return console::RenderSvg(plots);
}

}  // namespace varve::model
