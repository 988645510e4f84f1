// A UCX worker of a lane: the place where messages arrive. Every lane has one that peers greet;
// over shared memory and tcp every connection has one more of its own. shm: a peer that is killed
// while it writes into a worker's receive queue blocks that queue for everybody for ever. tcp: UCX
// pairs the k-th endpoints of two workers on one socket, so that closing one connection would cut
// another to the same peer.
//
// Made on any thread; used on the lane's thread; destroyed after it was detached from the lane.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kvstore/transport/ucx_handles.h"

namespace varve::transport {

class Station {
 public:
  static absl::StatusOr<std::unique_ptr<Station>> Open(ucp_context_h context);

  ucp_worker_h worker() const { return worker_.get(); }
  const std::string& address() const { return address_; }
  int event_fd() const { return event_fd_; }  // owned by the worker

 private:
  friend class Lane;
  Station() = default;

  UcxWorker worker_;
  std::string address_;
  int event_fd_ = -1;
  bool awake_ = false;  // progressed by the lane's thread; else armed
  std::chrono::steady_clock::time_point last_event_;
};

}  // namespace varve::transport
