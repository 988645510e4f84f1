// Line plots as SVG documents. Values; no threads, no errors.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"

namespace varve::console {

struct PlotLine {
  std::string name;
  std::vector<std::pair<double, double>> points;  // drawn in this order
};

struct LinePlot {
  std::string title;
  std::string x_name;
  std::vector<std::pair<double, std::string>> x_marks;  // ascending; the axis spans them
  std::vector<std::pair<double, std::string>> y_marks;
  std::vector<PlotLine> lines;
  bool dots = false;  // also one for each point
};

// Plots one below the other. Text is escaped; points beyond the marks are drawn at the edge.
std::string RenderSvg(absl::Span<const LinePlot> plots);

}  // namespace varve::console
