// absl::Status helpers. Every boundary returns absl::Status or StatusOr; nothing throws.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace varve::base {

// Debian's absl::string_view is a type of its own.
inline absl::string_view Sv(std::string_view s) { return {s.data(), s.size()}; }

// Text of a client as an error shows it: the start of it, in quotes, nothing unprintable.
inline std::string Quoted(std::string_view text) {
  constexpr size_t kShownBytes = 64;
  const std::string shown = absl::CHexEscape(Sv(text.substr(0, kShownBytes)));
  if (text.size() <= kShownBytes) return "'" + shown + "'";
  return "'" + shown + "...' (" + std::to_string(text.size()) + " bytes)";
}

// The same status with `context: ` before its message; OK stays OK.
inline absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  std::string message(context);
  message.append(": ").append(status.message().data(), status.message().size());
  return absl::Status(status.code(), message);
}

}  // namespace varve::base

#define VARVE_CONCAT_INNER(a, b) a##b
#define VARVE_CONCAT(a, b) VARVE_CONCAT_INNER(a, b)

#define VARVE_RETURN_IF_ERROR(expr)                               \
  do {                                                            \
    if (absl::Status varve_status = (expr); !varve_status.ok()) { \
      return varve_status;                                        \
    }                                                             \
  } while (false)

#define VARVE_ASSIGN_OR_RETURN(lhs, expr) \
  VARVE_ASSIGN_OR_RETURN_IMPL(VARVE_CONCAT(varve_status_or_, __LINE__), lhs, expr)
#define VARVE_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) return tmp.status();               \
  lhs = std::move(tmp).value()
