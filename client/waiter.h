// Turns one callback into a blocking result. Thread-safe; one Set, one Take.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kvstore/base/mutex.h"

namespace varve::client {

template <typename T>
class Waiter {
 public:
  Waiter() : state_(std::make_shared<State>()) {}

  // A callback that may outlive the waiter.
  auto Callback() {
    return [state = state_](T value) {
      base::MutexLock lock(state->mutex);
      state->value = std::move(value);
      state->set.NotifyAll();
    };
  }
  T Take() {
    base::MutexLock lock(state_->mutex);
    while (!state_->value.has_value()) state_->set.Wait(state_->mutex);
    return std::move(*state_->value);
  }
  // Nothing when none came in time.
  std::optional<T> TakeWithin(absl::Duration patience) {
    const absl::Time deadline = absl::Now() + patience;
    base::MutexLock lock(state_->mutex);
    while (!state_->value.has_value()) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) return std::nullopt;
      state_->set.WaitFor(state_->mutex, absl::ToChronoNanoseconds(left));
    }
    return std::move(state_->value);
  }

 private:
  struct State {
    base::Mutex mutex;
    base::CondVar set;
    std::optional<T> value ABSL_GUARDED_BY(mutex);
  };
  std::shared_ptr<State> state_;
};

}  // namespace varve::client
