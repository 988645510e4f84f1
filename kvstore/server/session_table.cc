#include "kvstore/server/session_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/hash.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"

namespace varve::server {
namespace {
constexpr size_t kSessionIdBytes = 16;
}  // namespace

SessionTable::SessionTable(const SessionLimits& limits, base::Executor* reaper,
                           std::function<void(uint64_t)> on_end)
    : limits_(limits), reaper_(reaper), on_end_(std::move(on_end)) {}

absl::Status SessionTable::CheckOpen() const {
  base::MutexLock lock(mutex_);
  return CheckOpenLocked();
}

absl::Status SessionTable::CheckOpenLocked() const {
  if (closed_) return absl::FailedPreconditionError("the store is draining: no new sessions");
  if (open_.size() >= limits_.max_sessions) {
    return absl::ResourceExhaustedError(absl::StrCat(
        open_.size(), " sessions are open; sessions.max_sessions allows ", limits_.max_sessions));
  }
  return absl::OkStatus();
}

absl::StatusOr<SessionRef> SessionTable::Open(SessionInfo info,
                                              std::unique_ptr<transport::Endpoint> endpoint) {
  const uint64_t number = next_number_.fetch_add(1);
  SessionRef session(new Session(number, base::RandomBytes(kSessionIdBytes), std::move(info),
                                 std::move(endpoint), limits_),
                     [this](Session* s) { reaper_->Run([this, s] { Destroy(s); }); });
  base::MutexLock lock(mutex_);
  VARVE_RETURN_IF_ERROR(CheckOpenLocked());
  alive_[number] = session;
  open_[session->id()] = session;
  return session;
}

void SessionTable::Destroy(Session* session) {
  const uint64_t number = session->number();
  delete session;
  base::MutexLock lock(mutex_);
  alive_.erase(number);
  changed_.NotifyAll();
}

absl::StatusOr<SessionRef> SessionTable::Find(const std::string& id) const {
  {
    base::MutexLock lock(mutex_);
    const auto found = open_.find(id);
    if (found != open_.end()) return found->second;
    if (closed_) return absl::FailedPreconditionError("the store is draining");
  }
  return absl::UnauthenticatedError(id.size() == kSessionIdBytes
                                        ? "session_id names no open session; open one with Session"
                                        : absl::StrCat("session_id of ", id.size(),
                                                       " bytes; Session answers with one of ",
                                                       kSessionIdBytes));
}

void SessionTable::End(const SessionRef& session, EndMode mode, const absl::Status& reason) {
  {
    base::MutexLock lock(mutex_);
    if (open_.erase(session->id()) == 0) return;
  }
  if (mode == EndMode::kAbrupt && session->endpoint() != nullptr) session->endpoint()->Close();
  session->MarkEnded([&] { on_end_(session->number()); });
  auto closer = session->TakeStreamCloser();
  if (!reason.ok()) {
    base::LogWarning("session ", session->number(), " (", session->info().client_name,
                     ") ended: ", std::string(reason.message()));
    if (closer) closer(reason);
  }
}

void SessionTable::Close() {
  base::MutexLock lock(mutex_);
  closed_ = true;
}

bool SessionTable::closed() const {
  base::MutexLock lock(mutex_);
  return closed_;
}

void SessionTable::EndAll(EndMode mode, const absl::Status& reason) {
  for (const SessionRef& session : List()) End(session, mode, reason);
}

void SessionTable::CloseEndpoints() {
  std::vector<SessionRef> sessions;
  {
    base::MutexLock lock(mutex_);
    for (const auto& [number, weak] : alive_) {
      if (SessionRef session = weak.lock()) sessions.push_back(std::move(session));
    }
  }
  for (const SessionRef& session : sessions) {
    if (session->endpoint() != nullptr) session->endpoint()->Close();
  }
}

bool SessionTable::AwaitNone(absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  base::MutexLock lock(mutex_);
  while (!alive_.empty()) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    // Bounded: an infinite wait overflows inside the standard library.
    changed_.WaitFor(mutex_, absl::ToChronoNanoseconds(std::min(left, absl::Minutes(1))));
  }
  return true;
}

std::vector<SessionRef> SessionTable::List() const {
  std::vector<SessionRef> sessions;
  {
    base::MutexLock lock(mutex_);
    sessions.reserve(open_.size());
    for (const auto& [id, session] : open_) sessions.push_back(session);
  }
  std::sort(sessions.begin(), sessions.end(),
            [](const SessionRef& a, const SessionRef& b) { return a->number() < b->number(); });
  return sessions;
}

size_t SessionTable::size() const {
  base::MutexLock lock(mutex_);
  return open_.size();
}

uint64_t SessionTable::registered_bytes() const {
  uint64_t bytes = 0;
  for (const SessionRef& session : List()) bytes += session->registered_bytes();
  return bytes;
}

}  // namespace varve::server
