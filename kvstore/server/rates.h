// How fast counters moved lately: a ring of samples, one a second, over the last ten seconds.
//
// Thread-safe.
#pragma once

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "kvstore/base/mutex.h"

namespace varve::server {

// Named values that only grow, always the same names in the same order.
using Totals = std::vector<std::pair<std::string, double>>;

class Rates {
 public:
  static constexpr absl::Duration kWindow = absl::Seconds(10);

  // Times must not go back.
  void Sample(absl::Time now, Totals totals);
  // Per second, over the samples of the window; zeros with fewer than two samples.
  Totals PerSecond() const;

 private:
  mutable base::Mutex mutex_;
  std::deque<std::pair<absl::Time, Totals>> samples_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::server
