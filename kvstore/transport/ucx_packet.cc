#include "kvstore/transport/ucx_packet.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace varve::transport {

void Packet::Reset(std::list<Transfer>::iterator transfer) {
  transfer_ = transfer;
  message_.head.pieces = 0;
  pieces_.Clear();
  operations_ = 0;
  answered_ = false;
  in_flight_ = true;
  status_ = absl::OkStatus();
}

void Packet::Add(const Transfer::Part& part, size_t offset, size_t bytes) {
  remote_ = part.remote;
  message_.pieces[pieces_.count()] = {part.remote->region, part.offset + offset, bytes};
  pieces_.Add(part.local.data() + offset, bytes, part.copier);
}

void Packet::Issue() {
  if (remote_->key != nullptr) return IssueOneSided();
  const bool read = transfer_->read;
  id_ = connection_.requester().AddPacket(this);
  message_.head = MakeMessage(read ? MessageType::kRead : MessageType::kWrite, session(), id_).head;
  message_.head.pieces = static_cast<uint16_t>(pieces_.count());
  static const PieceList kNothing{};
  ++operations_;
  connection_.lane().Send(connection_.station(), connection_.endpoint(), message_,
                          read ? kNothing : pieces_, this);
}

void Packet::IssueOneSided() {
  const std::span<std::byte> local(static_cast<std::byte*>(pieces_.iov()[0].buffer),
                                   pieces_.bytes());
  const uint64_t address = remote_->address + message_.pieces[0].offset;
  answered_ = true;  // UCX's completions are the answer
  Lane& lane = connection_.lane();
  if (transfer_->read) {
    ++operations_;
    return lane.Get(connection_.station(), connection_.endpoint(), local, address, remote_->key,
                    this);
  }
  // A put is remotely complete when a flush posted after it is.
  operations_ += 2;
  lane.Put(connection_.station(), connection_.endpoint(), local, address, remote_->key, this);
  lane.Flush(connection_.station(), connection_.endpoint(), this);
}

void Packet::OnData(const Incoming& incoming) {
  if (answered_ || !transfer_->read) return;
  if (incoming.bytes != bytes()) {
    return Answered(absl::InternalError(
        absl::StrCat("peer answered ", incoming.bytes, " bytes for ", bytes())));
  }
  if (incoming.rendezvous) {
    answered_ = true;
    ++operations_;
    return connection_.lane().Receive(incoming.station, incoming.data, pieces_, this);
  }
  pieces_.Unpack(0, incoming.data, incoming.bytes);
  Answered(absl::OkStatus());
}

void Packet::OnAck(absl::StatusCode code) {
  if (answered_) return;
  if (code == absl::StatusCode::kOk) {
    return Answered(transfer_->read ? absl::InternalError("peer answered a read without data")
                                    : absl::OkStatus());
  }
  Answered(
      absl::Status(code, "peer refused the transfer: its region is gone or smaller than it said"));
}

void Packet::Abandon() {
  answered_ = true;
  operations_ = 0;
  EndIfOver();
}

void Packet::Complete(ucs_status_t status) {
  if (!in_flight_) return;  // abandoned
  --operations_;
  if (status != UCS_OK) {
    answered_ = true;
    if (status_.ok())
      status_ =
          absl::UnavailableError(absl::StrCat("transfer failed: ", ucs_status_string(status)));
  }
  EndIfOver();
}

void Packet::Answered(absl::Status status) {
  answered_ = true;
  if (status_.ok()) status_ = std::move(status);
  EndIfOver();
}

void Packet::EndIfOver() {
  if (!in_flight_ || !answered_ || operations_ > 0) return;
  in_flight_ = false;
  if (id_ != 0) connection_.requester().RemovePacket(std::exchange(id_, 0));
  connection_.OnPacketDone(this);
}

}  // namespace varve::transport
