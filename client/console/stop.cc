#include "client/console/stop.h"

#include <signal.h>

#include <atomic>

namespace varve::console {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};
std::atomic<bool> stopped{false};
static_assert(std::atomic<bool>::is_always_lock_free, "what a signal handler may touch");

// The next one ends the program. Not SIGHUP: a terminal that closes may send it twice, by its shell
// and by the kernel.
void Stop(int) {
  stopped = true;
  for (const int each : kSignals) signal(each, each == SIGHUP ? SIG_IGN : SIG_DFL);
}

bool Ignored(int signal) {
  struct sigaction action {};
  sigaction(signal, nullptr, &action);
  return action.sa_handler == SIG_IGN;
}

}  // namespace

void StopOnSignals() {
  struct sigaction action {};
  action.sa_handler = Stop;
  action.sa_flags = SA_RESTART;
  for (const int each : kSignals) {
    if (each != SIGHUP || !Ignored(each)) sigaction(each, &action, nullptr);
  }
}

bool Stopped() { return stopped; }

absl::Status CheckStopped() {
  return Stopped() ? absl::CancelledError("stopped by a signal") : absl::OkStatus();
}

}  // namespace varve::console
