// The streaming RPCs that are open, so that they can be ended from outside: by a store that drains,
// with their session, or when their client lets them wait too long.
//
// Thread-safe. Closers are called with no lock held; one may be called more than once (its first
// reason counts), and still after Remove.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kvstore/base/mutex.h"

namespace varve::server {

class OpenStreams {
 public:
  using Closer = std::function<void(const absl::Status&)>;

  // 0, without a call, when CloseAll was called before: the stream must end itself.
  uint64_t Add(Closer closer);
  void Remove(uint64_t id);

  // The stream holds something in the session's name: CloseSession closes it. The caller checks
  // afterwards that the session has not ended meanwhile.
  void Bind(uint64_t id, uint64_t session);
  // CloseOverdue closes it from `deadline` on. InfiniteFuture: nothing is awaited of the client.
  void Expect(uint64_t id, absl::Time deadline);

  void CloseSession(uint64_t session, const absl::Status& reason);
  void CloseOverdue(absl::Time now, const absl::Status& reason);
  void CloseAll(const absl::Status& reason);

 private:
  struct Stream {
    Closer closer;
    uint64_t session = 0;  // 0: none
    absl::Time deadline = absl::InfiniteFuture();
  };
  template <typename Which>
  std::vector<Closer> Closers(Which&& which);

  base::Mutex mutex_;
  std::map<uint64_t, Stream> streams_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace varve::server
