#include "client/console/table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace varve::console {
namespace {

constexpr char kGap[] = "  ";

// Code points: bytes that do not continue a UTF-8 sequence.
size_t DisplayWidth(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string Pad(const std::string& text, size_t width, Align align) {
  const std::string blanks(width - DisplayWidth(text), ' ');
  return align == Align::kLeft ? absl::StrCat(text, blanks) : absl::StrCat(blanks, text);
}

void AppendLine(std::string line, std::string* to) {
  line.erase(line.find_last_not_of(' ') + 1);
  absl::StrAppend(to, line, "\n");
}

// Names that others chose must not move the cursor: control characters as \x1b.
std::string Printable(const std::string& text) {
  std::string shown;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&shown, "\\x%02x", byte);
    } else {
      shown += c;
    }
  }
  return shown;
}

}  // namespace

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

void Table::AddRow(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::string& cell : cells) cell = Printable(cell);
  rows_.push_back({std::move(cells), std::exchange(rule_next_, false)});
}

void Table::AddRule() { rule_next_ = !rows_.empty(); }

std::vector<size_t> Table::Widths() const {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns_.size(); ++c) {
    size_t width = DisplayWidth(columns_[c].title);
    for (const Row& row : rows_) width = std::max(width, DisplayWidth(row.cells[c]));
    widths.push_back(width);
  }
  return widths;
}

std::string Table::Render() const {
  const std::vector<size_t> widths = Widths();
  std::string heading, rule, out;
  for (size_t c = 0; c < columns_.size(); ++c) {
    const char* gap = c == 0 ? "" : kGap;
    absl::StrAppend(&heading, gap, Pad(columns_[c].title, widths[c], columns_[c].align));
    absl::StrAppend(&rule, gap, std::string(widths[c], '-'));
  }
  AppendLine(std::move(heading), &out);
  AppendLine(rule, &out);
  for (const Row& row : rows_) {
    if (row.ruled) AppendLine(rule, &out);
    std::string line;
    for (size_t c = 0; c < columns_.size(); ++c) {
      absl::StrAppend(&line, c == 0 ? "" : kGap, Pad(row.cells[c], widths[c], columns_[c].align));
    }
    AppendLine(std::move(line), &out);
  }
  return out;
}

}  // namespace varve::console
