#include "kvstore/server/open_streams.h"

#include <utility>

namespace varve::server {

uint64_t OpenStreams::Add(Closer closer) {
  base::MutexLock lock(mutex_);
  if (closed_) return 0;
  closers_.emplace(next_id_, std::move(closer));
  return next_id_++;
}

void OpenStreams::Remove(uint64_t id) {
  base::MutexLock lock(mutex_);
  closers_.erase(id);
}

void OpenStreams::CloseAll(const absl::Status& reason) {
  std::map<uint64_t, Closer> closers;
  {
    base::MutexLock lock(mutex_);
    closed_ = true;
    closers.swap(closers_);
  }
  for (auto& [id, closer] : closers) closer(reason);
}

}  // namespace varve::server
