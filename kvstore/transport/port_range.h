// The ports that the tcp lane may listen on. UCX takes a range as it comes: it counts ports beyond
// 65535 from 0 again, and tries for ever when all of them are taken.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::transport {

inline constexpr const char* kPortRangeForm =
    "two ports within 1-65535, the lower one first, such as 20000-20100; or empty for any";

struct PortRange {
  uint16_t first = 0;  // 0: any port
  uint16_t last = 0;

  bool any() const { return first == 0; }
};

// "20000-20100"; empty: any. INVALID_ARGUMENT for everything else.
absl::StatusOr<PortRange> ParsePortRange(std::string_view text);

// RESOURCE_EXHAUSTED when no port of the range can be bound on every device. What is free now may
// be taken at once.
absl::Status CheckFreePort(const PortRange& range);

}  // namespace varve::transport
