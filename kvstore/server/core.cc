#include "kvstore/server/core.h"

#include <utility>

namespace varve::server {

absl::StatusOr<SessionRef> RequireSession(Core& core, const std::string& session_id) {
  absl::StatusOr<SessionRef> session = core.sessions.Find(session_id);
  if (absl::IsFailedPrecondition(session.status())) core.metrics.Reject("draining");
  return session;
}

absl::Status CountReject(Core& core, const char* limit, absl::Status status) {
  if (absl::IsResourceExhausted(status)) core.metrics.Reject(limit);
  return status;
}

}  // namespace varve::server
