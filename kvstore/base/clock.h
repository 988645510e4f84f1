// The time seam: everything that waits or expires asks a Clock, so tests can move it.
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace varve::base {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;
};

class SystemClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::Now(); }
  static const SystemClock& Get() {
    static const SystemClock clock;
    return clock;
  }
};

}  // namespace varve::base
