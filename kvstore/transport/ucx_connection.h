// The store's half of a lane: connections to clients and the transfers under way on them.
//
// A transfer is cut into packets: one piece of up to segment_bytes, or several small pieces packed
// into one message. A bounded number of bytes is in flight per connection. A packet is over when
// its answer is here and UCX no longer touches the local memory; a transfer is over when all its
// packets are.
//
// Lane's thread only, unless marked otherwise.
#pragma once

#include <atomic>
#include <deque>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kvstore/base/mutex.h"
#include "kvstore/transport/transport.h"
#include "kvstore/transport/ucx_lane.h"

namespace varve::transport {

class Connection;
class Packet;

// How the lane reaches a peer's region.
struct RemoteAccess {
  uint64_t region = 0;
  uint64_t address = 0;         // in the peer's address space
  ucp_rkey_h key = nullptr;     // null: by active messages
  std::byte* direct = nullptr;  // where the region is mapped into this process; null: it is not
};

struct Transfer {
  struct Part {
    std::span<std::byte> local;
    const RemoteAccess* remote;
    uint64_t offset;
    Copier* copier;
  };
  bool read;
  std::vector<Part> parts;  // none empty
  absl::Time deadline;
  Done done;

  // Progress, the connection's business.
  size_t part = 0;         // first part not yet wholly issued
  size_t part_offset = 0;  // bytes of it already issued
  int packets = 0;         // in flight
  absl::Status status;
  std::optional<Lane::Timers::iterator> timer;

  bool fully_issued() const { return part == parts.size(); }
};

// Answers of all connections of a lane, by request id.
class Requester {
 public:
  // kWelcome, kData, kAck.
  void OnMessage(const Incoming& incoming);

  void AddConnection(Connection* connection);
  void RemoveConnection(Connection* connection);
  uint64_t AddPacket(Packet* packet);
  void RemovePacket(uint64_t id) { packets_.erase(id); }
  // Closes every connection.
  void CloseAll();

 private:
  absl::flat_hash_map<uint64_t, Connection*> connections_;  // by session
  absl::flat_hash_map<uint64_t, Packet*> packets_;
  uint64_t next_id_ = 1;
};

class Connection final : public UcxEndpointOwner, public std::enable_shared_from_this<Connection> {
 public:
  // own: the connection's own station; null: it uses the lane's.
  Connection(Lane& lane, Requester& requester, std::unique_ptr<Station> own, size_t segment_bytes);
  ~Connection();

  // Begins to connect; WaitUntilOpen tells the outcome.
  // pid: of the peer, when it is on this machine.
  void Open(const std::string& worker_address, uint32_t pid, absl::Duration timeout);
  // Any thread but the lane's.
  absl::Status WaitUntilOpen();
  void WaitUntilClosed();
  // Any thread. OK while open.
  absl::Status health() const;
  bool open() const { return state_.load(std::memory_order_acquire) == State::kOpen; }

  void Submit(Transfer transfer);
  // Any thread: from now on nothing new begins. True the first time, when SayGoodbye is due.
  bool Leave();
  // Says goodbye and closes.
  void SayGoodbye();

  // Any thread: unpacks a peer's key. Null when the lane cannot use it.
  ucp_rkey_h UnpackKey(const std::string& key);

  uint64_t session() const { return session_; }
  ucp_ep_h endpoint() const { return endpoint_; }
  Station& station() { return own_ == nullptr ? lane_.station() : *own_; }
  Lane& lane() { return lane_; }
  Requester& requester() { return requester_; }
  void OnEndpointError(ucs_status_t status) override;
  void OnWelcome();
  // A packet has ended: its bytes leave the window.
  void OnPacketDone(Packet* packet);
  void Fail(absl::Status status);

 private:
  friend class Packet;
  enum class State { kConnecting, kOpen, kLeaving, kClosing, kClosed };
  using Transfers = std::list<Transfer>;
  class Greeting;

  void SetState(State state, absl::Status health);
  void Pump();
  void FillPacket(Packet* packet, Transfer* transfer);
  Packet* NewPacket(Transfers::iterator transfer);
  void OnDeadline(Transfers::iterator transfer);
  void Finish(Transfers::iterator transfer);
  void CancelTimer(std::optional<Lane::Timers::iterator>* timer);
  void FinishClosingIfIdle();

  Lane& lane_;
  Requester& requester_;
  const size_t segment_bytes_;
  const size_t window_bytes_;
  const uint64_t session_;

  std::atomic<State> state_{State::kConnecting};
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);

  ucp_ep_h endpoint_ = nullptr;
  int watch_ = -1;
  std::unique_ptr<Greeting> hello_;
  std::unique_ptr<Greeting> goodbye_;
  std::optional<Lane::Timers::iterator> timer_;  // of connecting, then of saying goodbye
  Transfers transfers_;
  std::deque<Transfers::iterator> queue_;  // not yet wholly issued
  std::vector<std::unique_ptr<Packet>> packets_;
  std::vector<Packet*> free_packets_;
  size_t bytes_in_flight_ = 0;
  int packets_in_flight_ = 0;
  bool endpoint_closed_ = false;
  bool pump_due_ = false;
  // Goes before the packets: destroying its worker may complete what UCX still owes an abandoned
  // one. Nothing moves bytes then any more, as nobody progresses a worker after Detach.
  const std::unique_ptr<Station> own_;
};

}  // namespace varve::transport
