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

// Calls fn(piece, worker) once for each piece < pieces, worker < threads; returns when all calls
// are done. The caller works too, so a busy executor delays nothing; helpers that start after the
// last piece was taken touch nothing.
template <typename Fn>
void ParallelFor(Executor* executor, uint32_t threads, uint32_t pieces, Fn& fn) {
  struct Shared {
    std::atomic<uint32_t> next{0};
    Mutex mutex;
    CondVar changed;
    uint32_t done = 0;
  };
  const auto shared = std::make_shared<Shared>();
  // fn is the caller's: it is used only between taking a piece and reporting it done.
  const auto work = [shared, pieces, &fn](uint32_t worker) {
    uint32_t finished = 0;
    for (uint32_t piece; (piece = shared->next.fetch_add(1)) < pieces; ++finished) {
      fn(piece, worker);
    }
    if (finished == 0) return;
    MutexLock lock(shared->mutex);
    shared->done += finished;
    if (shared->done == pieces) shared->changed.NotifyAll();
  };
  for (uint32_t worker = 1; executor != nullptr && worker < std::min(threads, pieces); ++worker) {
    executor->Run([work, worker] { work(worker); });
  }
  work(0);
  MutexLock lock(shared->mutex);
  while (shared->done < pieces) shared->changed.Wait(shared->mutex);
}

}  // namespace varve::base
