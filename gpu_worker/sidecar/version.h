// Set by the build.
#pragma once

namespace varve::worker {

extern const char* const kVersion;
extern const char* const kCommit;

}  // namespace varve::worker
