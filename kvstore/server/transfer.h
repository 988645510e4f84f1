// Transfers of a session: the transport's Read and Write with metrics, accounting, and the rule
// that a client which is gone or stalled loses its session.
#pragma once

#include <vector>

#include "absl/time/time.h"
#include "kvstore/server/core.h"
#include "kvstore/transport/transport.h"

namespace varve::server {

enum class Direction { kFromClient, kToClient };

// Small values share a transfer and a task up to this size.
constexpr uint64_t kChunkBytes = 256 << 10;

// Done runs once, on a transport thread (or here, when the transfer is refused). The segments'
// regions must be kept alive until then; the session is kept alive by the transfer.
void StartTransfer(Core& core, Direction direction, const SessionRef& session,
                   std::vector<transport::Segment> segments, absl::Time deadline,
                   transport::Done done);

// The metrics, the accounting and the rule, for a copy that its owner made himself.
void AccountTransfer(Core& core, Direction direction, const SessionRef& session, uint64_t bytes,
                     absl::Time start, const absl::Status& status);

// Whether such a copy may begin now.
absl::Status CheckEndpoint(const Session& session, absl::Time deadline);

// deadline_ms of a request, 0 meaning the configured default; INVALID_ARGUMENT above the maximum.
absl::StatusOr<absl::Time> TransferDeadline(const Core& core, uint32_t deadline_ms);

}  // namespace varve::server
