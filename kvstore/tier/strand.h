// Work that runs on an executor, one run at a time, whenever there is some.
#pragma once

#include <utility>

#include "absl/functional/any_invocable.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"

namespace varve::tier {

// Threads: every method from any thread; Stop not from the work itself.
class Strand {
 public:
  // executor outlives the strand.
  Strand(base::Executor* executor, absl::AnyInvocable<void()> work)
      : executor_(executor), work_(std::move(work)) {}
  ~Strand() { Stop(); }
  Strand(const Strand&) = delete;
  Strand& operator=(const Strand&) = delete;

  // The work runs once more, begun after this call. Never under a lock that the work takes: the
  // executor may run it at once.
  void Wake() {
    {
      base::MutexLock lock(mutex_);
      again_ = true;
      if (running_ || stopped_) return;
      running_ = true;
    }
    executor_->Run([this] { Loop(); });
  }

  // Waits for a run that is under way; there is none after it.
  void Stop() {
    base::MutexLock lock(mutex_);
    stopped_ = true;
    while (running_) idle_.Wait(mutex_);
  }

 private:
  void Loop() {
    for (;;) {
      {
        base::MutexLock lock(mutex_);
        if (!again_ || stopped_) {
          running_ = false;
          idle_.NotifyAll();
          return;
        }
        again_ = false;
      }
      work_();
    }
  }

  base::Executor* const executor_;
  absl::AnyInvocable<void()> work_;
  base::Mutex mutex_;
  base::CondVar idle_;
  bool running_ ABSL_GUARDED_BY(mutex_) = false;
  bool again_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace varve::tier
