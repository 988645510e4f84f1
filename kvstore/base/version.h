// What this build is; set by the build.
#pragma once

#include <string>
#include <string_view>

namespace varve::base {

extern const char* const kVersion;  // "0.1.0"
extern const char* const kCommit;   // of the source tree when it was configured, or "unknown"

// What --version prints: "varve-store 0.1.0 (6acac5d)".
std::string VersionText(std::string_view program);

}  // namespace varve::base
