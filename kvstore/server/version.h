// What this build is.
#pragma once

namespace varve::server {

extern const char* const kVersion;  // "0.1.0"
extern const char* const kCommit;   // of the source tree when it was configured, or "unknown"

}  // namespace varve::server
