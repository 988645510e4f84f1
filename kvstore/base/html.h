// What status pages share.
#pragma once

#include <string>
#include <string_view>

namespace varve::base {

// For names that others chose: & < > " ' escaped; bytes that are not printable ASCII become '?'.
std::string EscapeHtml(std::string_view text);

}  // namespace varve::base
