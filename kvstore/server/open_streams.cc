#include "kvstore/server/open_streams.h"

#include <utility>

namespace varve::server {

uint64_t OpenStreams::Add(Closer closer) {
  std::optional<absl::Status> closed;
  uint64_t id = 0;
  {
    base::MutexLock lock(mutex_);
    closed = closed_;
    id = next_id_++;
    if (!closed.has_value()) closers_.emplace(id, closer);
  }
  if (closed.has_value()) closer(*closed);
  return id;
}

void OpenStreams::Remove(uint64_t id) {
  base::MutexLock lock(mutex_);
  closers_.erase(id);
}

void OpenStreams::CloseAll(const absl::Status& reason) {
  std::map<uint64_t, Closer> closers;
  {
    base::MutexLock lock(mutex_);
    closed_ = reason;
    closers.swap(closers_);
  }
  for (auto& [id, closer] : closers) closer(reason);
}

}  // namespace varve::server
