// Splits independent items over a few short-lived threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace varve::model {

// Runs body(0) .. body(count - 1), each once, on at most `threads` threads of which the caller's is
// one; returns when all are done. body must not throw.
inline void ParallelFor(uint32_t count, int threads, const std::function<void(uint32_t)>& body) {
  std::atomic<uint32_t> next{0};
  const auto work = [&] {
    for (uint32_t i = next++; i < count; i = next++) body(i);
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads && static_cast<uint32_t>(t) < count; ++t) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
}

}  // namespace varve::model
