#include "kvstore/base/units.h"

#include <cmath>
#include <cstdio>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::base {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};
constexpr Unit kUnits[] = {{"", 1},         {"b", 1},        {"kib", 1024.0}, {"mib", 1048576.0},
                           {"gib", 0x1p30}, {"tib", 0x1p40}, {"pib", 0x1p50}, {"eib", 0x1p60},
                           {"kb", 1e3},     {"mb", 1e6},     {"gb", 1e9},     {"tb", 1e12},
                           {"pb", 1e15},    {"eb", 1e18}};

}  // namespace

absl::StatusOr<uint64_t> ParseBytes(std::string_view text) {
  const std::string lower = absl::AsciiStrToLower(absl::StripAsciiWhitespace(Sv(text)));
  const size_t digits = lower.find_first_not_of("0123456789.");
  const std::string number = lower.substr(0, digits);
  std::string unit = digits == std::string::npos ? "" : lower.substr(digits);
  unit = std::string(absl::StripAsciiWhitespace(unit));
  double value = 0;
  if (absl::SimpleAtod(number, &value)) {
    for (const Unit& u : kUnits) {
      if (unit != u.name) continue;
      const double bytes = value * u.bytes;
      if (bytes < 0x1p63 && bytes == std::floor(bytes)) return static_cast<uint64_t>(bytes);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", std::string(text),
                   "' is not a size; write a whole number of bytes, such as 4096, 64KiB, 512MiB "
                   "or 1.5GiB (below 8 EiB)"));
}

std::string FormatBytes(uint64_t bytes) {
  static constexpr const char* kNames[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 6) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text),
                unit == 0 || value >= 100 ? "%.0f %s"
                : value >= 10             ? "%.1f %s"
                                          : "%.2f %s",
                value, kNames[unit]);
  return text;
}

absl::StatusOr<absl::Duration> ParseDuration(std::string_view text) {
  if (text == "infinite") return absl::InfiniteDuration();
  absl::Duration value;
  if (absl::ParseDuration(Sv(text), &value) && value >= absl::ZeroDuration()) return value;
  return absl::InvalidArgumentError(absl::StrCat(
      "'", std::string(text), "' is not a duration; write for example 250ms, 30s, 5m or 1h30m"));
}

}  // namespace varve::base
