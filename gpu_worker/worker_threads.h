// The threads of a worker that no call waits for alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>

#include "gpu_worker/sequence.h"
#include "kvstore/base/executor.h"

namespace varve::worker {

// That share one Attend call.
inline uint32_t ThreadsOf(const WorkerOptions& options) {
  if (options.attend_threads > 0) return options.attend_threads;
  return std::clamp(std::thread::hardware_concurrency() / 2, 1u, 16u);
}

class WorkerThreads {
 public:
  explicit WorkerThreads(Services& services)
      : fit_helpers_(std::max(ThreadsOf(services.options), 2u) - 1),
        fitters_("fit", static_cast<int>(fit_helpers_)) {
    services.prefetcher = &prefetchers_;
    services.fitter = &fitters_;
    services.fit_threads = fit_helpers_ + 1;
  }

 private:
  base::ThreadPool prefetchers_{"ahead", 4};  // wait for the store's answers
  const uint32_t fit_helpers_;
  base::ThreadPool fitters_;
};

}  // namespace varve::worker
