// SIGINT, SIGTERM and SIGHUP for command line tools that have something to clean up.
#pragma once

#include "absl/status/status.h"

namespace varve::console {

// From here on SIGINT, SIGTERM and SIGHUP ask the program to end instead of ending it; a second
// SIGINT or SIGTERM ends it. SIGHUP that is ignored stays so, as under nohup.
void StopOnSignals();
// A signal came. Thread-safe, as is CheckStopped.
bool Stopped();
// The exit code of a program that ended so, as a shell says it of Ctrl-C.
inline constexpr int kInterrupted = 130;
// CANCELLED once a signal came.
absl::Status CheckStopped();

}  // namespace varve::console
