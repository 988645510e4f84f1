#include "client/console/stop.h"

#include <signal.h>

#include <atomic>

namespace varve::console {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM};
std::atomic<bool> stopped{false};
static_assert(std::atomic<bool>::is_always_lock_free, "what a signal handler may touch");

// The next one, whichever it is, ends the program.
void Stop(int) {
  stopped = true;
  for (const int each : kSignals) signal(each, SIG_DFL);
}

}  // namespace

void StopOnSignals() {
  struct sigaction action {};
  action.sa_handler = Stop;
  action.sa_flags = SA_RESTART;
  for (const int each : kSignals) sigaction(each, &action, nullptr);
}

bool Stopped() { return stopped; }

absl::Status CheckStopped() {
  return Stopped() ? absl::CancelledError("stopped by a signal") : absl::OkStatus();
}

}  // namespace varve::console
