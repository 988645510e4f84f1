#include "kvstore/server/core.h"

#include <utility>

namespace varve::server {

absl::StatusOr<SessionRef> RequireSession(Core& core, const std::string& session_id) {
  absl::StatusOr<SessionRef> session = core.sessions.Find(session_id);
  if (absl::IsFailedPrecondition(session.status())) core.metrics.Reject("draining");
  return session;
}

absl::Status SessionEnded() { return absl::UnavailableError("the session has ended"); }

absl::Duration IdleLimit(const Core& core) {
  return absl::Milliseconds(core.config.sessions().inline_idle_ms());
}

absl::Status CountReject(Core& core, const char* limit, absl::Status status) {
  if (absl::IsResourceExhausted(status)) core.metrics.Reject(limit);
  return status;
}

}  // namespace varve::server
