// Sizes and durations as people write them: "8GiB", "512MB", "4096"; "30s", "5m", "250ms", "1h30m".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace varve::base {

// B (or nothing), KiB MiB GiB TiB (1024), KB MB GB TB (1000); case does not matter; fractions
// allowed ("1.5GiB").
absl::StatusOr<uint64_t> ParseBytes(std::string_view text);
// "1.5 GiB", "640 B": 1024-based, three significant digits.
std::string FormatBytes(uint64_t bytes);
absl::StatusOr<absl::Duration> ParseDuration(std::string_view text);

}  // namespace varve::base
