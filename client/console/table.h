// Text tables for terminals: aligned columns under a ruled heading. Values; no threads, no errors.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace varve::console {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;
  Align align = Align::kLeft;
};

class Table {
 public:
  explicit Table(std::vector<Column> columns);

  // Cells beyond the last column are dropped, missing ones are empty.
  void AddRow(std::vector<std::string> cells);
  // A rule before the next row, to set groups of rows apart.
  void AddRule();

  // Lines ending in '\n', without trailing blanks. UTF-8 code points count as one column each.
  std::string Render() const;

 private:
  struct Row {
    std::vector<std::string> cells;
    bool ruled = false;  // a rule stands before it
  };

  std::vector<size_t> Widths() const;

  std::vector<Column> columns_;
  std::vector<Row> rows_;
  bool rule_next_ = false;
};

}  // namespace varve::console
