// Waits for what another thread brings about.
#pragma once

#include <thread>

#include "absl/functional/function_ref.h"
#include "absl/time/clock.h"

namespace varve::testing {

// False when the condition does not hold within 20 s.
inline bool Eventually(absl::FunctionRef<bool()> condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace varve::testing
