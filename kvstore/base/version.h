// What this build is; set by the build.
#pragma once

namespace varve::base {

extern const char* const kVersion;  // "0.1.0"
extern const char* const kCommit;   // of the source tree when it was configured, or "unknown"

}  // namespace varve::base
