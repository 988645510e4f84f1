// A lane with both its halves: answering stores, and driving clients.
//
// Thread-safe where its parts are. Kept alive by the transport, its endpoints and their regions;
// the lane's thread runs from construction to Close.
#pragma once

#include "absl/time/time.h"
#include "kvstore/transport/region_table.h"
#include "kvstore/transport/ucx_connection.h"
#include "kvstore/transport/ucx_lane.h"
#include "kvstore/transport/ucx_responder.h"

namespace varve::transport {

class Port {
 public:
  Port(std::unique_ptr<Lane> lane, RegionTable& regions);
  ~Port() { Close(); }
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;

  Lane& lane() { return *lane_; }
  Requester& requester() { return requester_; }
  // Ends the sessions whose operations use a region, so that its memory can be given back.
  void CloseSessions(uint64_t region);
  // Ends all sessions and connections and the lane's thread. Idempotent; any thread but the lane's.
  void Close();

 private:
  // Order matters: the lane's worker is destroyed first, while what its callbacks name still
  // exists.
  Requester requester_;
  std::unique_ptr<Responder> responder_;
  std::unique_ptr<Lane> lane_;
};

}  // namespace varve::transport
