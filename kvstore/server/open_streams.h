// The streaming RPCs that are open, so that a draining store can end them.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "absl/status/status.h"
#include "kvstore/base/mutex.h"

namespace varve::server {

class OpenStreams {
 public:
  using Closer = std::function<void(const absl::Status&)>;

  // The closer is called at most once, with no lock held, and may still be after Remove. 0, without
  // a call, when CloseAll was called before: the stream must end itself.
  uint64_t Add(Closer closer);
  void Remove(uint64_t id);
  void CloseAll(const absl::Status& reason);

 private:
  base::Mutex mutex_;
  std::map<uint64_t, Closer> closers_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace varve::server
