// A clock that moves only when the test says so.
#pragma once

#include "kvstore/base/clock.h"
#include "kvstore/base/mutex.h"

namespace varve::testing_support {

// Thread-safe.
class ManualClock final : public base::Clock {
 public:
  absl::Time Now() const override {
    base::MutexLock lock(mutex_);
    return now_;
  }
  void Advance(absl::Duration by) {
    base::MutexLock lock(mutex_);
    now_ += by;
  }

 private:
  mutable base::Mutex mutex_;
  absl::Time now_ ABSL_GUARDED_BY(mutex_) = absl::FromUnixSeconds(1'800'000'000);
};

}  // namespace varve::testing_support
