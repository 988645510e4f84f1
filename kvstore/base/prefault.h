// Page faults, taken before they cost a transfer.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace varve::base {

// Makes every page of a mapping present and writable without changing its content, by `threads`
// threads, this one included. memory begins on a page. RESOURCE_EXHAUSTED when the system has no
// memory for it (where the kernel can say so: Linux 5.14 and later). stop: looked at every 64 MiB
// of a thread; CANCELLED when it was set before the end.
absl::Status Prefault(std::span<std::byte> memory, uint32_t threads = 1,
                      const std::atomic<bool>* stop = nullptr);

}  // namespace varve::base
