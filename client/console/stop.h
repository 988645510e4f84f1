// SIGINT and SIGTERM for command line tools that have something to clean up.
#pragma once

#include "absl/status/status.h"

namespace varve::console {

// From here on SIGINT and SIGTERM ask the program to end instead of ending it; a second one ends it.
void StopOnSignals();
// A signal came. Thread-safe, as is the next.
bool Stopped();
// CANCELLED once a signal came.
absl::Status CheckStopped();

}  // namespace varve::console
