// Waiting for a transfer, with a limit, and counting how often its Done ran.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "kvstore/base/mutex.h"
#include "kvstore/transport/transport.h"

namespace varve::transport {

// Thread-safe. Hands out Dones and waits for them.
class Results {
 public:
  Done Next() {
    base::MutexLock lock(state_->mutex);
    const size_t index = state_->runs.size();
    state_->runs.push_back(0);
    state_->status.emplace_back();
    return [state = state_, index](absl::Status status) {
      base::MutexLock lock(state->mutex);
      ++state->runs[index];
      state->status[index] = std::move(status);
      ++state->ran;
      state->changed.NotifyAll();
    };
  }

  // False when some Done has not run in time.
  bool Wait(absl::Duration limit = absl::Minutes(1)) {
    const absl::Time end = absl::Now() + limit;
    base::MutexLock lock(state_->mutex);
    while (state_->ran < state_->runs.size()) {
      const absl::Duration left = end - absl::Now();
      if (left <= absl::ZeroDuration()) return false;
      state_->changed.WaitFor(state_->mutex, absl::ToChronoNanoseconds(left));
    }
    return true;
  }

  std::vector<absl::Status> statuses() const {
    base::MutexLock lock(state_->mutex);
    return state_->status;
  }
  // How often each Done ran.
  std::vector<int> runs() const {
    base::MutexLock lock(state_->mutex);
    return state_->runs;
  }

 private:
  struct State {
    base::Mutex mutex;
    base::CondVar changed;
    std::vector<int> runs ABSL_GUARDED_BY(mutex);
    std::vector<absl::Status> status ABSL_GUARDED_BY(mutex);
    size_t ran ABSL_GUARDED_BY(mutex) = 0;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

inline absl::Time In(absl::Duration duration) { return absl::Now() + duration; }

inline absl::Status WaitFor(Results& results) {
  if (!results.Wait()) return absl::InternalError("Done did not run");
  return results.statuses().back();
}

inline absl::Status ReadAll(Endpoint& endpoint, std::vector<Segment> segments,
                            absl::Duration limit = absl::Seconds(30)) {
  Results results;
  endpoint.Read(std::move(segments), In(limit), results.Next());
  return WaitFor(results);
}

inline absl::Status WriteAll(Endpoint& endpoint, std::vector<Segment> segments,
                             absl::Duration limit = absl::Seconds(30)) {
  Results results;
  endpoint.Write(std::move(segments), In(limit), results.Next());
  return WaitFor(results);
}

}  // namespace varve::transport
