// Which pages of a text an Attend really used, read from the page table and the pool's memory: what
// the worker says of itself is not asked. For tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/worker.h"
#include "tests/support/test_engine.h"

namespace varve::testing {

// By KV head, ascending. INTERNAL when a slot holds no page of the text or two rows of the table
// name the same page twice. The text has no two equal pages.
absl::StatusOr<std::vector<std::vector<uint32_t>>> AttendedPages(const worker::Worker& worker,
                                                                 std::span<const std::byte> pool,
                                                                 const RandomText& text,
                                                                 const Feeder& feeder,
                                                                 uint32_t layer);

}  // namespace varve::testing
