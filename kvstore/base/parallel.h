// A loop over independent pieces, shared between the caller and helpers from an executor.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"

namespace varve::base {

// fn(piece, worker) once for each piece < pieces, worker < threads, the caller's being 0. Helpers
// begin at once; the caller may do something else before it joins them, so a busy executor delays
// nothing. Helpers that start after the last piece was taken touch nothing.
template <typename Fn>
class ParallelLoop {
 public:
  // fn outlives the loop.
  ParallelLoop(Executor* executor, uint32_t threads, uint32_t pieces, Fn& fn)
      : shared_(std::make_shared<Shared>()), pieces_(pieces), fn_(fn) {
    for (uint32_t worker = 1; executor != nullptr && worker < std::min(threads, pieces); ++worker) {
      executor->Run([shared = shared_, pieces, &fn, worker] { Work(*shared, pieces, fn, worker); });
    }
  }
  ~ParallelLoop() { Finish(); }
  ParallelLoop(const ParallelLoop&) = delete;
  ParallelLoop& operator=(const ParallelLoop&) = delete;

  // Works too, and returns when all calls are done.
  void Finish() {
    Work(*shared_, pieces_, fn_, 0);
    MutexLock lock(shared_->mutex);
    while (shared_->done < pieces_) shared_->changed.Wait(shared_->mutex);
  }

 private:
  struct Shared {
    std::atomic<uint32_t> next{0};
    Mutex mutex;
    CondVar changed;
    uint32_t done = 0;
  };
  // fn is the caller's: it is used only between taking a piece and reporting it done.
  static void Work(Shared& shared, uint32_t pieces, Fn& fn, uint32_t worker) {
    uint32_t finished = 0;
    for (uint32_t piece; (piece = shared.next.fetch_add(1)) < pieces; ++finished) {
      fn(piece, worker);
    }
    if (finished == 0) return;
    MutexLock lock(shared.mutex);
    shared.done += finished;
    if (shared.done == pieces) shared.changed.NotifyAll();
  }

  const std::shared_ptr<Shared> shared_;
  const uint32_t pieces_;
  Fn& fn_;
};

// The whole loop.
template <typename Fn>
void ParallelFor(Executor* executor, uint32_t threads, uint32_t pieces, Fn& fn) {
  ParallelLoop<Fn>(executor, threads, pieces, fn).Finish();
}

}  // namespace varve::base
