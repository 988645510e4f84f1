#include "client/console/line_plot.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace varve::console {
namespace {

constexpr int kLeft = 60, kTop = 30, kWidth = 640, kHeight = 280;
constexpr int kLegendLine = 18;
constexpr std::array<const char*, 8> kColours = {"#1f77b4", "#ff7f0e", "#2ca02c", "#d62728",
                                                 "#9467bd", "#8c564b", "#e377c2", "#17becf"};

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

int HeightOf(const LinePlot& plot) {
  return kTop + kHeight + 44 + kLegendLine * static_cast<int>(plot.lines.size());
}

// Where a value lies between the first and the last mark, 0 to 1.
double Share(const std::vector<std::pair<double, std::string>>& marks, double value) {
  const double first = marks.front().first, span = marks.back().first - first;
  return span <= 0 ? 0 : std::clamp((value - first) / span, 0.0, 1.0);
}

class Drawing {
 public:
  Drawing(const LinePlot& plot, int top, std::string* svg) : plot_(plot), top_(top), svg_(*svg) {}

  void Draw() {
    Text(kLeft, top_ + 18, "start", "font-weight=\"bold\"", plot_.title);
    if (plot_.x_marks.empty() || plot_.y_marks.empty()) return;
    for (const auto& [value, name] : plot_.y_marks) {
      absl::StrAppendFormat(&svg_,
                            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
                            kLeft, kLeft + kWidth, Y(value), Y(value));
      Text(kLeft - 6, Y(value) + 4, "end", "", name);
    }
    const int bottom = top_ + kTop + kHeight;
    for (const auto& [value, name] : plot_.x_marks) Text(X(value), bottom + 16, "middle", "", name);
    Text(kLeft + kWidth / 2.0, bottom + 34, "middle", "", plot_.x_name);
    for (size_t i = 0; i < plot_.lines.size(); ++i) {
      Line(plot_.lines[i], kColours[i % kColours.size()], bottom + 52 + kLegendLine * i);
    }
  }

 private:
  double X(double value) const { return kLeft + kWidth * Share(plot_.x_marks, value); }
  double Y(double value) const { return top_ + kTop + kHeight * (1 - Share(plot_.y_marks, value)); }

  void Text(double x, double y, const char* anchor, const char* attributes,
            const std::string& text) {
    absl::StrAppendFormat(&svg_, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" %s>%s</text>\n", x,
                          y, anchor, attributes, Escape(text));
  }

  void Line(const PlotLine& line, const char* colour, double legend_y) {
    std::string points;
    for (const auto& [x, y] : line.points) {
      absl::StrAppendFormat(&points, "%.1f,%.1f ", X(x), Y(y));
    }
    absl::StrAppendFormat(
        &svg_, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"%s\"/>\n", colour,
        points);
    for (const auto& [x, y] : line.points) {
      if (!plot_.dots) break;
      absl::StrAppendFormat(&svg_, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", X(x),
                            Y(y), colour);
    }
    Text(kLeft, legend_y, "start", absl::StrCat("fill=\"", colour, "\"").c_str(), line.name);
  }

  const LinePlot& plot_;
  const int top_;
  std::string& svg_;
};

}  // namespace

std::string RenderSvg(absl::Span<const LinePlot> plots) {
  int height = 0;
  std::string body;
  for (const LinePlot& plot : plots) {
    Drawing(plot, height, &body).Draw();
    height += HeightOf(plot);
  }
  return absl::StrFormat(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">)"
      "\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n%s</svg>\n",
      kLeft + kWidth + 30, height, body);
}

}  // namespace varve::console
