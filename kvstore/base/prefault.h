// Page faults, taken before they cost a transfer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace varve::base {

// Makes every page of a mapping present and writable without changing its content, by `threads`
// threads, this one included. memory begins on a page. RESOURCE_EXHAUSTED when the system has no
// memory for it (where the kernel can say so: Linux 5.14 and later).
absl::Status Prefault(std::span<std::byte> memory, uint32_t threads = 1);

}  // namespace varve::base
