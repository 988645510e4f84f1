// One client's session: its endpoint, its registered regions and its counters.
//
// Thread-safe. Shared: the table holds open sessions, every transfer in flight holds the session
// that it belongs to, so an endpoint lives until its last Done has run. The last holder may be a
// Done, where an endpoint must not be destroyed: the table's deleter therefore destroys sessions on
// an executor.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/base/mutex.h"
#include "kvstore/store/page_store.h"
#include "kvstore/transport/transport.h"

namespace varve::server {

struct SessionInfo {
  std::string client_name;
  std::string key_namespace;
  std::string peer;
  store::NamespaceId ns = 0;
  absl::Time opened;
};

struct SessionLimits {
  uint32_t max_sessions = 0;
  uint32_t max_regions = 0;           // of one session
  uint64_t max_registered_bytes = 0;  // of all regions of one session
};

// A region of client memory. Destroyed before its session: holders keep both.
using RegionRef = std::shared_ptr<const transport::RemoteRegion>;

class Session {
 public:
  // endpoint: null for an inline session.
  Session(uint64_t number, std::string id, SessionInfo info,
          std::unique_ptr<transport::Endpoint> endpoint, const SessionLimits& limits);

  // Names the session towards the rooms below (pins, attachments); never reused.
  uint64_t number() const { return number_; }
  // 16 random bytes; a secret of the client.
  const std::string& id() const { return id_; }
  const SessionInfo& info() const { return info_; }
  store::NamespaceId ns() const { return info_.ns; }
  transport::Endpoint* endpoint() const { return endpoint_.get(); }
  const char* lane() const { return endpoint_ ? endpoint_->lane() : "inline"; }

  // The region's size. ALREADY_EXISTS, RESOURCE_EXHAUSTED over max_regions or max_registered_bytes,
  // FAILED_PRECONDITION for inline sessions.
  absl::StatusOr<uint64_t> AddRegion(uint64_t region_id, const std::string& descriptor);
  // NOT_FOUND. Transfers in flight on the region go on.
  absl::Status RemoveRegion(uint64_t region_id);
  // Null when there is no such region in this session.
  RegionRef FindRegion(uint64_t region_id) const;
  uint32_t num_regions() const;
  uint64_t registered_bytes() const;

  // How the table ends the client's stream; called at most once, with no lock held.
  void SetStreamCloser(std::function<void(absl::Status)> closer);
  std::function<void(absl::Status)> TakeStreamCloser();

  // Runs fn while the session cannot end: for everything that takes pins or attachments in its
  // name, which would otherwise outlive it. UNAVAILABLE, without running fn, when it has ended. fn
  // must be quick.
  template <typename Fn>
  absl::Status WhileOpen(Fn&& fn) {
    base::MutexLock lock(hold_mutex_);
    if (ended_) return absl::UnavailableError("the session has ended");
    return fn();
  }
  // Marks the session ended and runs fn, which drops its pins and attachments.
  template <typename Fn>
  void MarkEnded(Fn&& fn) {
    base::MutexLock lock(hold_mutex_);
    ended_ = true;
    fn();
  }
  bool ended() const { return ended_; }

  std::atomic<uint64_t> read_bytes{0};     // from the client (puts)
  std::atomic<uint64_t> written_bytes{0};  // into the client (gets)

 private:
  const uint64_t number_;
  const std::string id_;
  const SessionInfo info_;
  const SessionLimits limits_;
  const std::unique_ptr<transport::Endpoint> endpoint_;
  base::Mutex hold_mutex_;
  std::atomic<bool> ended_{false};  // written under hold_mutex_

  mutable base::Mutex mutex_;
  // Declared after the endpoint: regions must go first.
  absl::flat_hash_map<uint64_t, RegionRef> regions_ ABSL_GUARDED_BY(mutex_);
  uint64_t registered_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::function<void(absl::Status)> closer_ ABSL_GUARDED_BY(mutex_);
};

using SessionRef = std::shared_ptr<Session>;

}  // namespace varve::server
