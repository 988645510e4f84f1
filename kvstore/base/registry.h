// A table of plug-ins by name. Rows are added from main or a room's own list, never by
// self-registering statics.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace varve::base {

// Not thread-safe while rows are added; then immutable.
template <typename Row>
class Registry {
 public:
  // what: "eviction policy", for error messages.
  explicit Registry(std::string what) : what_(std::move(what)) {}

  Registry& Add(std::string name, Row row) {
    rows_.emplace_back(std::move(name), std::move(row));
    return *this;
  }

  // INVALID_ARGUMENT naming the known rows when `name` is none of them.
  absl::StatusOr<const Row*> Find(std::string_view name) const {
    for (const auto& [key, row] : rows_) {
      if (key == name) return &row;
    }
    return absl::InvalidArgumentError(
        absl::StrCat("unknown ", what_, " '", std::string(name), "', known: ", Names()));
  }

  std::string Names() const {
    std::string names;
    for (const auto& [key, row] : rows_) absl::StrAppend(&names, names.empty() ? "" : ", ", key);
    return names;
  }
  std::vector<std::string> NameList() const {
    std::vector<std::string> names;
    for (const auto& [key, row] : rows_) names.push_back(key);
    return names;
  }
  const std::vector<std::pair<std::string, Row>>& rows() const { return rows_; }

 private:
  std::string what_;
  std::vector<std::pair<std::string, Row>> rows_;
};

}  // namespace varve::base
