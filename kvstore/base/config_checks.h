// The checks that a setting's type cannot express, collected so that all problems are told at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/units.h"

namespace varve::base {

class ConfigChecks {
 public:
  // "field: value is not allowed; allowed".
  void Refuse(const std::string& field, const std::string& value, const std::string& allowed);
  template <typename T>
  void Range(const std::string& field, T value, T low, T high) {
    if (value >= low && value <= high) return;
    Refuse(field, absl::StrCat(value), absl::StrCat("between ", low, " and ", high));
  }
  void Bytes(const std::string& field, uint64_t value, uint64_t low, uint64_t high);
  void Millis(const std::string& field, uint64_t value, uint64_t low, uint64_t high);
  void OneOf(const std::string& field, const std::string& value,
             const std::vector<std::string>& allowed);
  // At least one of the allowed, none twice.
  void SomeOf(const std::string& field, const std::vector<std::string>& values,
              const std::vector<std::string>& allowed);
  // host:port, or unix:/path; port 0 picks one.
  void Address(const std::string& field, const std::string& value);
  // host:port, or empty for none.
  void HttpAddress(const std::string& field, const std::string& value);
  void LogLevel(const std::string& field, const std::string& value);

  // INVALID_ARGUMENT lists every problem, one per line.
  absl::Status Result() const;

 private:
  std::vector<std::string> problems_;
};

}  // namespace varve::base
