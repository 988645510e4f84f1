#include "client/console/stop.h"

#include <signal.h>

#include <atomic>

namespace varve::console {
namespace {

std::atomic<bool> stopped{false};
static_assert(std::atomic<bool>::is_always_lock_free, "what a signal handler may touch");

void Stop(int) { stopped = true; }

}  // namespace

void StopOnSignals() {
  struct sigaction action {};
  action.sa_handler = Stop;
  action.sa_flags = SA_RESTART | static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

bool Stopped() { return stopped; }

absl::Status CheckStopped() {
  return Stopped() ? absl::CancelledError("stopped by a signal") : absl::OkStatus();
}

}  // namespace varve::console
