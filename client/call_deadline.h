// Bounds the calls of one thread: while this lives, blocking calls that its thread makes on any
// Client end in time, with DEADLINE_EXCEEDED. Nested ones only shorten.
//
//   const client::CallDeadline deadline(absl::Now() + absl::Seconds(1));
//   client->Get(items);  // waits for a second at most
//
// What the store was asked to do may go on: see the errors of client.h.
#pragma once

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace varve::client {

class CallDeadline {
 public:
  explicit CallDeadline(absl::Time deadline) : outer_(Current()) {
    Current() = std::min(outer_, deadline);
  }
  ~CallDeadline() { Current() = outer_; }
  CallDeadline(const CallDeadline&) = delete;
  CallDeadline& operator=(const CallDeadline&) = delete;

  // `wait`, or what is left of the thread's time when that is less; never negative.
  static absl::Duration Shorten(absl::Duration wait) {
    if (Current() == absl::InfiniteFuture()) return wait;
    return std::clamp(Current() - absl::Now(), absl::ZeroDuration(), wait);
  }

 private:
  static absl::Time& Current() {
    thread_local absl::Time deadline = absl::InfiniteFuture();
    return deadline;
  }

  const absl::Time outer_;
};

}  // namespace varve::client
