// The threads that share the KV heads of one Attend: the caller, and helpers of a pool of their
// own. Thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "kvstore/base/executor.h"
#include "kvstore/base/parallel.h"

namespace varve::worker {

class HeadThreads {
 public:
  // Less than this is done before another thread would have woken up.
  static constexpr uint64_t kBytesPerThread = 256 << 10;

  explicit HeadThreads(uint32_t threads)
      : threads_(threads),
        helpers_(threads > 1
                     ? std::make_unique<base::ThreadPool>("heads", static_cast<int>(threads) - 1)
                     : nullptr) {}

  uint32_t count() const { return threads_; }

  // fn(work, thread) for each, on as many threads as so many bytes that are read are worth.
  template <typename Fn>
  void Share(size_t works, uint64_t bytes, Fn&& fn) {
    const auto worth =
        static_cast<uint32_t>(std::min<uint64_t>(threads_, 1 + bytes / kBytesPerThread));
    if (worth > 1) {
      return base::ParallelFor(helpers_.get(), worth, static_cast<uint32_t>(works), fn);
    }
    for (uint32_t i = 0; i < works; ++i) fn(i, 0u);
  }

 private:
  const uint32_t threads_;
  const std::unique_ptr<base::ThreadPool> helpers_;  // null when the caller is the only thread
};

}  // namespace varve::worker
