#include "kvstore/transport/ucx_packet.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace varve::transport {

void Packet::Reset(std::list<Transfer>::iterator transfer) {
  transfer_ = transfer;
  message_.head.pieces = 0;
  count_ = 0;
  bytes_ = 0;
  operations_ = 0;
  answered_ = false;
  in_flight_ = true;
  status_ = absl::OkStatus();
}

void Packet::Add(const Transfer::Part& part, size_t offset, size_t bytes) {
  remote_ = part.remote;
  iov_[count_] = {part.local.data() + offset, bytes};
  message_.pieces[count_] = {part.remote->region, part.offset + offset, bytes};
  ++count_;
  bytes_ += bytes;
}

void Packet::Issue() {
  if (remote_->key != nullptr) return IssueOneSided();
  const bool read = transfer_->read;
  id_ = connection_.requester().AddPacket(this);
  const size_t pieces = count_;
  message_.head = MakeMessage(read ? MessageType::kRead : MessageType::kWrite, session(), id_).head;
  message_.head.pieces = static_cast<uint16_t>(pieces);
  const ucp_dt_iov_t nothing = {nullptr, 0};
  ++operations_;
  connection_.lane().Send(connection_.station(), connection_.endpoint(), message_, read ? &nothing : iov_,
                          read ? 1 : count_, read ? 0 : bytes_, this);
}

void Packet::IssueOneSided() {
  const std::span<std::byte> local(static_cast<std::byte*>(iov_[0].buffer), iov_[0].length);
  const uint64_t address = remote_->address + message_.pieces[0].offset;
  answered_ = true;  // UCX's completions are the answer
  Lane& lane = connection_.lane();
  if (transfer_->read) {
    ++operations_;
    return lane.Get(connection_.station(), connection_.endpoint(), local, address, remote_->key, this);
  }
  // A put is remotely complete when a flush posted after it is.
  operations_ += 2;
  lane.Put(connection_.station(), connection_.endpoint(), local, address, remote_->key, this);
  lane.Flush(connection_.station(), connection_.endpoint(), this);
}

void Packet::OnData(const Incoming& incoming) {
  if (answered_ || !transfer_->read) return;
  if (incoming.bytes != bytes_) {
    return Answered(absl::InternalError(absl::StrCat("peer answered ", incoming.bytes, " bytes for ", bytes_)));
  }
  if (incoming.rendezvous) {
    answered_ = true;
    ++operations_;
    return connection_.lane().Receive(incoming.station, incoming.data, iov_, count_, bytes_, this);
  }
  const char* next = static_cast<const char*>(incoming.data);
  for (size_t i = 0; i < count_; ++i) {
    std::memcpy(iov_[i].buffer, next, iov_[i].length);
    next += iov_[i].length;
  }
  Answered(absl::OkStatus());
}

void Packet::OnAck(absl::StatusCode code) {
  if (answered_) return;
  if (code == absl::StatusCode::kOk) {
    return Answered(transfer_->read ? absl::InternalError("peer answered a read without data") : absl::OkStatus());
  }
  Answered(absl::Status(code, "peer refused the transfer: its region is gone or smaller than it said"));
}

void Packet::Abandon() {
  answered_ = true;
  EndIfOver();
}

void Packet::Complete(ucs_status_t status) {
  --operations_;
  if (status != UCS_OK) {
    answered_ = true;
    if (status_.ok()) status_ = absl::UnavailableError(absl::StrCat("transfer failed: ", ucs_status_string(status)));
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
