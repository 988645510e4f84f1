// A part of a transfer under way in one message or one-sided operation. Recycled by its connection.
#pragma once

#include <vector>

#include "kvstore/transport/ucx_connection.h"

namespace varve::transport {

class Packet final : public UcxOperation {
 public:
  explicit Packet(Connection& connection) : connection_(connection) {}

  // ---- filling ----
  void Reset(std::list<Transfer>::iterator transfer);
  void Add(const Transfer::Part& part, size_t offset, size_t bytes);

  // Sends it. May end it in the call.
  void Issue();

  // ---- answers ----
  void OnData(const Incoming& incoming);
  void OnAck(absl::StatusCode code);
  // Ends it whatever UCX owes. For a packet whose endpoint is closed: UCX 1.13 can forget a
  // rendezvous operation then. The packet is not used again, so that a late completion finds it.
  void Abandon();
  void Complete(ucs_status_t status) override;

  uint64_t session() const { return connection_.session(); }
  std::list<Transfer>::iterator transfer() const { return transfer_; }
  const absl::Status& status() const { return status_; }
  size_t bytes() const { return pieces_.bytes(); }
  size_t pieces() const { return pieces_.count(); }
  bool in_flight() const { return in_flight_; }

 private:
  void IssueOneSided();
  void Answered(absl::Status status);
  void EndIfOver();

  Connection& connection_;
  std::list<Transfer>::iterator transfer_;
  const RemoteAccess* remote_ = nullptr;  // of the last piece; a one-sided packet has one
  Message message_;                       // UCX reads it until the send completes
  PieceList pieces_;
  uint64_t id_ = 0;
  int operations_ = 0;  // UCX may still touch the local memory
  bool answered_ = false;
  bool in_flight_ = false;
  absl::Status status_;
};

}  // namespace varve::transport
