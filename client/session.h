// The client's session with the store: one stream, opened on the first call and again after it
// broke.
//
// State that the store loses with a session (registered regions) is kept here and told to the store
// again before a new session is handed out; state that belongs to the store (pins, attached
// contexts) is gone with it.
//
// Threads: all methods from any thread. One thread of the session opens streams, so that Acquire
// never blocks its caller; it ends in Shutdown.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/exchange_stream.h"
#include "kvstore/base/mutex.h"
#include "varve/v1/store.grpc.pb.h"

namespace varve::client {

class Session {
 public:
  struct Opened {
    uint64_t generation = 0;  // grows with every stream opened
    std::string session_id;
    std::string lane;
    std::string store_version;
    v1::Limits limits;
  };
  using OpenedPtr = std::shared_ptr<const Opened>;
  using Callback = std::function<void(absl::StatusOr<OpenedPtr>)>;

  // stub must outlive the session. connect_timeout bounds each attempt to have a session, retries
  // included.
  Session(v1::Store::Stub* stub, v1::OpenSession open, absl::Duration connect_timeout);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // The open session; opens one when there is none. The callback runs before this returns, or on
  // the session's thread.
  void Acquire(Callback done);
  absl::StatusOr<OpenedPtr> Acquire();
  // The open session, or null.
  OpenedPtr current() const;
  // The last one opened, broken or not; null before the first.
  OpenedPtr last() const;
  // The store no longer knows that session: the next Acquire opens another.
  void Lost(uint64_t generation);

  // Tells the store now and in every later session. An error leaves it forgotten. A store that does
  // not answer in 10 s, or in the thread's CallDeadline, loses the session.
  absl::Status AddRegion(uint64_t region_id, const std::string& descriptor);
  // Waits until the store has forgotten it too, or the session broke; as patient as AddRegion.
  void RemoveRegion(uint64_t region_id);

  // Closes the session; waiting and later calls get CANCELLED.
  void Shutdown();

 private:
  using Link = ExchangeStream<v1::SessionRequest, v1::SessionReply>;
  struct RegionEntry {
    std::string descriptor;
    uint64_t generation = 0;  // of the session that knows it
  };

  void Run();
  absl::StatusOr<OpenedPtr> OpenWithRetries();
  absl::StatusOr<OpenedPtr> OpenOnce(absl::Time deadline);
  absl::StatusOr<OpenedPtr> Introduce(Link& link, uint64_t generation, absl::Time deadline);
  absl::Status SyncRegions(Link& link, const OpenedPtr& opened, absl::Time deadline);
  bool PauseUnlessClosing(absl::Duration pause);
  void OnLinkClosed(uint64_t generation);

  v1::Store::Stub* const stub_;
  const v1::OpenSession open_;
  const absl::Duration connect_timeout_;

  mutable base::Mutex mutex_;
  base::CondVar wake_;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t last_generation_ ABSL_GUARDED_BY(mutex_) = 0;
  std::shared_ptr<Link> link_ ABSL_GUARDED_BY(mutex_);  // of opened_, or being opened
  // Links of before that gRPC may not be done with: Shutdown waits for them.
  std::vector<std::shared_ptr<Link>> retired_ ABSL_GUARDED_BY(mutex_);
  OpenedPtr opened_ ABSL_GUARDED_BY(mutex_);
  OpenedPtr last_ ABSL_GUARDED_BY(mutex_);
  std::vector<Callback> waiting_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, RegionEntry> regions_ ABSL_GUARDED_BY(mutex_);
  std::thread opener_;
};

}  // namespace varve::client
