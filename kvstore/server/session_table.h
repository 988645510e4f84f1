// All open sessions, by their 16 random bytes.
//
// A session ends when its stream ends, when the store drains, or when its client stops answering
// transfers. Ending is the same for all: the session leaves the table, its pins and attachments are
// dropped, and its endpoint is closed: at once when the client is gone, with the last transfer in
// flight otherwise. Threads: all methods from any thread; End runs the callback and the endpoint's
// Close on the caller.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/server/session.h"

namespace varve::server {

enum class EndMode {
  kGraceful,  // transfers in flight finish first
  kAbrupt,    // the client is gone: transfers in flight are cancelled
};

class SessionTable {
 public:
  // reaper: where sessions are destroyed; it must run what it was given before it is destroyed, and
  // outlive the table. on_end: drops what a session holds in the rooms below.
  SessionTable(const SessionLimits& limits, base::Executor* reaper,
               std::function<void(uint64_t number)> on_end);
  // REQUIRES: no session is alive (EndAll, then AwaitNone).
  ~SessionTable() = default;
  SessionTable(const SessionTable&) = delete;
  SessionTable& operator=(const SessionTable&) = delete;

  // RESOURCE_EXHAUSTED over max_sessions, FAILED_PRECONDITION once Close was called. The endpoint
  // is destroyed on failure.
  absl::StatusOr<SessionRef> Open(SessionInfo info, std::unique_ptr<transport::Endpoint> endpoint);
  // Whether Open would be refused now.
  absl::Status CheckOpen() const;
  // UNAUTHENTICATED when there is no such session.
  absl::StatusOr<SessionRef> Find(const std::string& id) const;
  // Idempotent. A status other than OK also ends the client's stream with it.
  void End(const SessionRef& session, EndMode mode, const absl::Status& reason);

  // No new sessions from here on.
  void Close();
  bool closed() const;
  void EndAll(EndMode mode, const absl::Status& reason);
  // Closes every endpoint that transfers in flight still hold, ended sessions included.
  void CloseEndpoints();
  // Waits until no session object is alive; false when the time ran out.
  bool AwaitNone(absl::Duration timeout);

  std::vector<SessionRef> List() const;  // by age
  size_t size() const;
  uint64_t registered_bytes() const;

 private:
  absl::Status CheckOpenLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Destroy(Session* session);

  const SessionLimits limits_;
  base::Executor* const reaper_;
  const std::function<void(uint64_t)> on_end_;
  std::atomic<uint64_t> next_number_{1};

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  absl::flat_hash_map<std::string, SessionRef> open_ ABSL_GUARDED_BY(mutex_);
  // Alive: open, or ended with transfers in flight.
  absl::flat_hash_map<uint64_t, std::weak_ptr<Session>> alive_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::server
