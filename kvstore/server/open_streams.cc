#include "kvstore/server/open_streams.h"

#include <utility>

namespace varve::server {

uint64_t OpenStreams::Add(Closer closer) {
  base::MutexLock lock(mutex_);
  if (closed_) return 0;
  streams_.emplace(next_id_, Stream{.closer = std::move(closer)});
  return next_id_++;
}

void OpenStreams::Remove(uint64_t id) {
  base::MutexLock lock(mutex_);
  streams_.erase(id);
}

void OpenStreams::Bind(uint64_t id, uint64_t session) {
  base::MutexLock lock(mutex_);
  const auto found = streams_.find(id);
  if (found != streams_.end()) found->second.session = session;
}

void OpenStreams::Expect(uint64_t id, absl::Time deadline) {
  base::MutexLock lock(mutex_);
  const auto found = streams_.find(id);
  if (found != streams_.end()) found->second.deadline = deadline;
}

template <typename Which>
std::vector<OpenStreams::Closer> OpenStreams::Closers(Which&& which) {
  std::vector<Closer> closers;
  base::MutexLock lock(mutex_);
  for (auto& [id, stream] : streams_) {
    if (!which(stream)) continue;
    closers.push_back(stream.closer);
    stream.deadline = absl::InfiniteFuture();
  }
  return closers;
}

void OpenStreams::CloseSession(uint64_t session, const absl::Status& reason) {
  const auto closers = Closers([&](const Stream& s) { return s.session == session; });
  for (const Closer& closer : closers) closer(reason);
}

void OpenStreams::CloseOverdue(absl::Time now, const absl::Status& reason) {
  const auto closers = Closers([&](const Stream& s) { return s.deadline <= now; });
  for (const Closer& closer : closers) closer(reason);
}

void OpenStreams::CloseAll(const absl::Status& reason) {
  std::map<uint64_t, Stream> streams;
  {
    base::MutexLock lock(mutex_);
    closed_ = true;
    streams.swap(streams_);
  }
  for (const auto& [id, stream] : streams) stream.closer(reason);
}

}  // namespace varve::server
