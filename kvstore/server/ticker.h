// Calls a function again and again on a thread of its own, until it is destroyed.
//
// The destructor waits for a call under way.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"

namespace varve::server {

class Ticker {
 public:
  // interval: from the end of one call to the start of the next; the first comes after one.
  Ticker(const std::string& name, absl::Duration interval, std::function<void()> tick)
      : interval_(interval), tick_(std::move(tick)), thread_([this, name] {
          base::NameThisThread(name);
          Loop();
        }) {}
  ~Ticker() {
    {
      base::MutexLock lock(mutex_);
      stopping_ = true;
    }
    changed_.NotifyAll();
    thread_.join();
  }
  Ticker(const Ticker&) = delete;
  Ticker& operator=(const Ticker&) = delete;

 private:
  void Loop() {
    for (;;) {
      {
        base::MutexLock lock(mutex_);
        // Woken early by nobody else, and an early tick does no harm.
        if (!stopping_) changed_.WaitFor(mutex_, absl::ToChronoNanoseconds(interval_));
        if (stopping_) return;
      }
      tick_();
    }
  }

  const absl::Duration interval_;
  const std::function<void()> tick_;
  base::Mutex mutex_;
  base::CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it uses the others
};

}  // namespace varve::server
