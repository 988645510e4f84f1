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

// Whether this system tells of the end of a process (pidfd_open; some containers forbid it). Where
// it does, UCX need not ask peers over shm whether they are there: the question of a connection
// that is closing may reach a peer late, and its answer then goes to whatever has the closed
// queue's place by then.
bool ProcessesCanBeWatched();

// UCP_FEATURE_* of a lane's context.
uint64_t LaneFeatures(LaneKind kind);

}  // namespace varve::transport
