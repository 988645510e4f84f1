#include "kvstore/base/config_checks.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "kvstore/base/address.h"

namespace varve::base {

void ConfigChecks::Refuse(const std::string& field, const std::string& value,
                          const std::string& allowed) {
  problems_.push_back(absl::StrCat(field, ": ", value, " is not allowed; ", allowed));
}

void ConfigChecks::Bytes(const std::string& field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return;
  Refuse(field, FormatBytes(value),
         absl::StrCat("between ", FormatBytes(low), " and ", FormatBytes(high)));
}

void ConfigChecks::Millis(const std::string& field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return;
  const auto text = [](uint64_t ms) { return absl::FormatDuration(absl::Milliseconds(ms)); };
  Refuse(field, text(value), absl::StrCat("between ", text(low), " and ", text(high)));
}

void ConfigChecks::OneOf(const std::string& field, const std::string& value,
                         const std::vector<std::string>& allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  Refuse(field, absl::StrCat("'", value, "'"),
         absl::StrCat("one of ", absl::StrJoin(allowed, ", ")));
}

void ConfigChecks::SomeOf(const std::string& field, const std::vector<std::string>& values,
                          const std::vector<std::string>& allowed) {
  if (values.empty()) {
    Refuse(field, "[]", absl::StrCat("at least one of ", absl::StrJoin(allowed, ", ")));
  }
  for (auto value = values.begin(); value != values.end(); ++value) {
    OneOf(field, *value, allowed);
    if (std::find(values.begin(), value, *value) != value) {
      Refuse(field, absl::StrCat("'", *value, "' twice"), "each once");
    }
  }
}

void ConfigChecks::Address(const std::string& field, const std::string& value) {
  if (IsAddress(value)) return;
  Refuse(field, absl::StrCat("'", value, "'"), "host:port (port 0 picks one) or unix:/path");
}

void ConfigChecks::HttpAddress(const std::string& field, const std::string& value) {
  // The HTTP server takes a list of addresses, and none of IPv6.
  const bool one_of_ipv4 = value.find_first_of("[],") == std::string::npos;
  if (value.empty() || (IsHostPort(value) && one_of_ipv4)) return;
  Refuse(field, absl::StrCat("'", value, "'"),
         "one IPv4 host:port (port 0 picks one), or empty for none");
}

void ConfigChecks::LogLevel(const std::string& field, const std::string& value) {
  OneOf(field, value, {"debug", "info", "warning", "error", "off"});
}

absl::Status ConfigChecks::Result() const {
  if (problems_.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrJoin(problems_, "\n"));
}

}  // namespace varve::base
