#include "tests/model/eval_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/console/table.h"

namespace varve::model {
namespace {

using console::Align;
using console::Column;
using console::Table;

double PerStep(const EvalRow& row, double sum) {
  return row.decode_steps == 0 ? 0 : sum / static_cast<double>(row.decode_steps);
}

std::optional<double> Ratio(double part, uint64_t whole) {
  if (whole == 0) return std::nullopt;
  return part / static_cast<double>(whole);
}

bool Speculates(const EvalRow& row) { return row.stats.heads_kept + row.stats.heads_corrected > 0; }

std::optional<double> HotHitRatio(const EvalRow& row) {
  return Ratio(static_cast<double>(row.stats.pages_hot), row.stats.pages_selected);
}

std::optional<double> MassKept(const EvalRow& row) {
  return Ratio(row.stats.mass_kept_sum, row.stats.mass_samples);
}

// Of the pages that were not resident a step before, those that came ahead.
std::optional<double> HiddenShare(const EvalRow& row) {
  if (!Speculates(row)) return std::nullopt;
  return Ratio(static_cast<double>(row.stats.pages_ahead),
               row.stats.pages_ahead + row.stats.pages_recalled);
}

std::optional<double> CorrectedShare(const EvalRow& row) {
  return Ratio(static_cast<double>(row.stats.heads_corrected),
               row.stats.heads_kept + row.stats.heads_corrected);
}

std::optional<double> MassBound(const EvalRow& row) {
  return Ratio(row.stats.mass_bound_sum, row.stats.mass_bound_samples);
}

std::optional<double> MassEstimate(const EvalRow& row) {
  return Ratio(row.stats.mass_estimate_sum, row.stats.mass_estimate_samples);
}

std::string Percent(const std::optional<double>& ratio, int digits) {
  return ratio.has_value() ? absl::StrFormat("%.*f %%", digits, *ratio * 100) : "-";
}

bool SameSet(const EvalRow& a, const EvalRow& b) {
  return a.task == b.task && a.length == b.length;
}

std::string RenderAccuracy(absl::Span<const EvalRow> rows) {
  Table table({{"task"},
               {"length", Align::kRight},
               {"policy"},
               {"page", Align::kRight},
               {"budget", Align::kRight},
               {"prompts", Align::kRight},
               {"answers right", Align::kRight},
               {"accuracy", Align::kRight},
               {"pages/step", Align::kRight},
               {"KiB/step", Align::kRight},
               {"hot hits", Align::kRight},
               {"mass kept", Align::kRight},
               {"estimate", Align::kRight},
               {"at least", Align::kRight},
               {"ms/step", Align::kRight}});
  for (size_t i = 0; i < rows.size(); ++i) {
    const EvalRow& row = rows[i];
    if (i > 0 && !SameSet(row, rows[i - 1])) table.AddRule();
    const BackendStats& stats = row.stats;
    table.AddRow(
        {row.task, absl::StrCat(row.length), row.policy.name, absl::StrCat(row.policy.page_tokens),
         Percent(row.policy.budget, 0), absl::StrCat(row.prompts),
         absl::StrCat(row.answers_right, "/", row.answers), Percent(row.Accuracy(), 1),
         absl::StrFormat("%.1f", PerStep(row, static_cast<double>(stats.pages_recalled))),
         absl::StrFormat("%.1f", PerStep(row, static_cast<double>(stats.bytes_recalled)) / 1024),
         Percent(HotHitRatio(row), 1), Percent(MassKept(row), 1), Percent(MassEstimate(row), 1),
         Percent(MassBound(row), 1),
         absl::StrFormat("%.2f", PerStep(row, row.decode_seconds) * 1e3)});
  }
  return table.Render();
}

std::string RenderStages(absl::Span<const EvalRow> rows) {
  std::set<std::string> names;
  for (const EvalRow& row : rows) {
    for (const auto& [name, time] : row.stats.stages) names.insert(name);
  }
  if (names.empty()) return "";
  std::vector<Column> columns = {
      {"task"}, {"length", Align::kRight}, {"policy"}, {"budget", Align::kRight}};
  for (const std::string& name : names) {
    columns.push_back({std::string(absl::StrCat(name, " us/step")), Align::kRight});
  }
  Table table(std::move(columns));
  for (size_t i = 0; i < rows.size(); ++i) {
    const EvalRow& row = rows[i];
    if (i > 0 && !SameSet(row, rows[i - 1])) table.AddRule();
    std::vector<std::string> cells = {row.task, absl::StrCat(row.length), row.policy.name,
                                      Percent(row.policy.budget, 0)};
    for (const std::string& name : names) {
      const auto it = row.stats.stages.find(name);
      cells.push_back(it == row.stats.stages.end()
                          ? "-"
                          : absl::StrFormat("%.1f", PerStep(row, it->second.seconds) * 1e6));
    }
    table.AddRow(std::move(cells));
  }
  return absl::StrCat("\n", table.Render());
}

std::string RenderSpeculation(absl::Span<const EvalRow> rows) {
  if (std::none_of(rows.begin(), rows.end(), Speculates)) return "";
  Table table({{"task"},
               {"length", Align::kRight},
               {"policy"},
               {"budget", Align::kRight},
               {"hidden", Align::kRight},
               {"corrected", Align::kRight},
               {"wasted KiB/step", Align::kRight}});
  for (const EvalRow& row : rows) {
    if (!Speculates(row)) continue;
    table.AddRow({row.task, absl::StrCat(row.length), row.policy.name,
                  Percent(row.policy.budget, 0), Percent(HiddenShare(row), 1),
                  Percent(CorrectedShare(row), 1),
                  absl::StrFormat(
                      "%.1f", PerStep(row, static_cast<double>(row.stats.bytes_wasted)) / 1024)});
  }
  return absl::StrCat("\n", table.Render());
}

// Bytes a token and layer.
double PerToken(const EvalRow& row, uint64_t bytes) {
  return static_cast<double>(bytes) / static_cast<double>(row.stats.memory_tokens);
}

uint64_t MemoryBytes(const EvalRow& row) {
  uint64_t bytes = 0;
  for (const auto& [kind, of_kind] : row.stats.memory_bytes) bytes += of_kind;
  return bytes;
}

// Where a method tells what it takes. The row of `full` is what the others are smaller than.
std::string RenderMemory(absl::Span<const EvalRow> rows) {
  if (std::none_of(rows.begin(), rows.end(),
                   [](const EvalRow& row) { return row.stats.memory_formula_bytes > 0; })) {
    return "";
  }
  std::set<std::string> kinds;
  for (const EvalRow& row : rows) {
    for (const auto& [kind, bytes] : row.stats.memory_bytes) kinds.insert(kind);
  }
  std::vector<Column> columns = {{"bytes a token and layer"},
                                 {"length", Align::kRight},
                                 {"policy"},
                                 {"budget", Align::kRight}};
  for (const std::string& kind : kinds) columns.push_back({kind, Align::kRight});
  columns.push_back({"total", Align::kRight});
  columns.push_back({"by formula", Align::kRight});
  Table table(std::move(columns));
  for (const EvalRow& row : rows) {
    if (row.stats.memory_tokens == 0) continue;
    std::vector<std::string> cells = {row.task, absl::StrCat(row.length), row.policy.name,
                                      Percent(row.policy.budget, 0)};
    for (const std::string& kind : kinds) {
      const auto bytes = row.stats.memory_bytes.find(kind);
      cells.push_back(bytes == row.stats.memory_bytes.end()
                          ? "-"
                          : absl::StrFormat("%.1f", PerToken(row, bytes->second)));
    }
    cells.push_back(absl::StrFormat("%.1f", PerToken(row, MemoryBytes(row))));
    cells.push_back(row.stats.memory_formula_bytes == 0
                        ? "-"
                        : absl::StrFormat("%.1f", PerToken(row, row.stats.memory_formula_bytes)));
    table.AddRow(std::move(cells));
  }
  return absl::StrCat("\n", table.Render());
}

nlohmann::json ToJson(const std::optional<double>& value) {
  return value.has_value() ? nlohmann::json(*value) : nlohmann::json();
}

nlohmann::ordered_json ToJson(const EvalRow& row) {
  const BackendStats& stats = row.stats;
  nlohmann::ordered_json stages = nlohmann::ordered_json::object();
  for (const auto& [name, time] : stats.stages) stages[name] = PerStep(row, time.seconds) * 1e6;
  nlohmann::ordered_json out = {
      {"policy", row.policy.name},
      {"page_tokens", row.policy.page_tokens},
      {"budget", row.policy.budget},
      {"task", row.task},
      {"length", row.length},
      {"prompts", row.prompts},
      {"prompts_right", row.prompts_right},
      {"answers", row.answers},
      {"answers_right", row.answers_right},
      {"accuracy", row.Accuracy()},
      {"decode_steps", row.decode_steps},
      {"decode_us_per_step", PerStep(row, row.decode_seconds) * 1e6},
      {"pages_selected_per_step", PerStep(row, static_cast<double>(stats.pages_selected))},
      {"pages_recalled_per_step", PerStep(row, static_cast<double>(stats.pages_recalled))},
      {"bytes_per_step", PerStep(row, static_cast<double>(stats.bytes_recalled))},
      {"pages_evicted", stats.pages_evicted},
      {"hot_hit_ratio", ToJson(HotHitRatio(row))},
      {"attention_mass_kept", ToJson(MassKept(row))},
      {"attention_mass_estimate", ToJson(MassEstimate(row))},
      {"attention_mass_bound", ToJson(MassBound(row))},
      {"stage_us_per_step", std::move(stages)},
  };
  if (Speculates(row)) {
    out["hidden_ratio"] = ToJson(HiddenShare(row));
    out["corrected_ratio"] = ToJson(CorrectedShare(row));
    out["wasted_bytes_per_step"] = PerStep(row, static_cast<double>(stats.bytes_wasted));
  }
  if (stats.memory_tokens > 0) {
    auto& memory = out["memory_bytes_per_token_and_layer"] = nlohmann::ordered_json::object();
    for (const auto& [kind, bytes] : stats.memory_bytes) memory[kind] = PerToken(row, bytes);
    if (stats.memory_formula_bytes > 0) {
      memory["by_formula"] = PerToken(row, stats.memory_formula_bytes);
    }
  }
  return out;
}

}  // namespace

std::string RenderTables(absl::Span<const EvalRow> rows) {
  return absl::StrCat(RenderAccuracy(rows), RenderSpeculation(rows), RenderMemory(rows),
                      RenderStages(rows));
}

std::string RenderJson(absl::Span<const EvalRow> rows) {
  nlohmann::ordered_json results = nlohmann::ordered_json::array();
  for (const EvalRow& row : rows) results.push_back(ToJson(row));
  using Json = nlohmann::ordered_json;
  return Json{{"results", std::move(results)}}.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace varve::model
