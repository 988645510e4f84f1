// How UCX is set up for each lane: its transports, its segments, what it may do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/transport/ucx.h"
#include "kvstore/transport/ucx_protocol.h"

namespace varve::transport {

inline constexpr size_t kTcpSegmentBytes = 256 << 10;

// UCX settings of a lane, names without the UCX_ prefix.
std::vector<std::pair<std::string, std::string>> LaneSettings(LaneKind kind,
                                                              const UcxOptions& options);

// UCP_FEATURE_* of a lane's context.
uint64_t LaneFeatures(LaneKind kind);

}  // namespace varve::transport
