// Transfers of a session: the transport's Read and Write with metrics, accounting, and the rule
// that a client which is gone or stalled loses its session.
#pragma once

#include <vector>

#include "absl/time/time.h"
#include "kvstore/server/core.h"
#include "kvstore/transport/transport.h"

namespace varve::server {

enum class Direction { kFromClient, kToClient };

// Values share a transfer up to this size. Copies of mapped memory are tasks for several threads;
// on a lane there is one, for which fewer and larger transfers are less work.
constexpr uint64_t ChunkBytes(transport::RemoteRegion::Way way) {
  return way == transport::RemoteRegion::Way::kMapped ? 256 << 10 : 4 << 20;
}

// Done runs once, on a transport thread (or here, when the transfer is refused or copies mapped
// memory). The segments' regions must be kept alive until then; the session is kept alive by the
// transfer.
void StartTransfer(Core& core, Direction direction, const SessionRef& session,
                   std::vector<transport::Segment> segments, absl::Time deadline,
                   transport::Done done);

// The same to the client for what nobody waits for yet: a piece at a time, so that another transfer
// has at most one piece before it. After the first piece that failed nothing more is sent.
void StartPatientTransfer(Core& core, const SessionRef& session,
                          std::vector<transport::Segment> segments, absl::Time deadline,
                          transport::Done done);

// deadline_ms of a request that was read at `arrived`, 0 meaning the configured default;
// INVALID_ARGUMENT above the maximum.
absl::StatusOr<absl::Time> TransferDeadline(const Core& core, absl::Time arrived,
                                            uint32_t deadline_ms);

}  // namespace varve::server
