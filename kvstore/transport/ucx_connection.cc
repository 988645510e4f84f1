#include "kvstore/transport/ucx_connection.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/log.h"
#include "kvstore/transport/ucx_packet.h"
#include "kvstore/transport/wire.h"

namespace varve::transport {
namespace {

using std::chrono::steady_clock;

// Bytes in flight on a connection: enough to hide the round trip behind several segments (measured:
// 8 of 1 MiB reach the bare loop over tcp, 2 reach 0.9 of it).
constexpr size_t kWindowBytes = 8 << 20;
constexpr int kWindowPackets = 64;
// How long a goodbye may take before the endpoint is closed without it.
constexpr auto kGoodbyeGrace = std::chrono::milliseconds(100);
// Longer deadlines are none.
constexpr absl::Duration kForever = absl::Hours(24 * 365);

}  // namespace

// The hello or the goodbye of a connection.
class Connection::Greeting final : public UcxOperation {
 public:
  Greeting(Connection& connection, MessageType type, absl::Status failure)
      : connection_(connection),
        message_(MakeMessage(type, connection.session_, static_cast<uint64_t>(getpid()))),
        failure_(std::move(failure)) {}

  void Send(const std::string& data) {
    PieceList pieces;
    pieces.Add(const_cast<char*>(data.data()), data.size(), nullptr);
    connection_.lane_.Send(connection_.station(), connection_.endpoint_, message_, pieces, this);
  }
  void Complete(ucs_status_t status) override {
    const bool bye = static_cast<MessageType>(message_.head.type) == MessageType::kBye;
    if (status == UCS_OK && !bye) return;
    connection_.lane_.RunLater(
        [self = connection_.shared_from_this(), failure = failure_] { self->Fail(failure); });
  }

 private:
  Connection& connection_;
  const Message message_;
  const absl::Status failure_;
};

// ---- Requester
// --------------------------------------------------------------------------------------

void Requester::OnMessage(const Incoming& incoming) {
  const MessageHead& head = incoming.message.head;
  if (static_cast<MessageType>(head.type) == MessageType::kWelcome) {
    const auto it = connections_.find(head.session);
    if (it != connections_.end()) it->second->OnWelcome();
    return;
  }
  const auto it = packets_.find(head.request);
  // A late answer, or one to another peer's request: the session is a secret shared with the right
  // peer alone.
  if (it == packets_.end() || it->second->session() != head.session) return;
  if (static_cast<MessageType>(head.type) == MessageType::kData)
    return it->second->OnData(incoming);
  it->second->OnAck(static_cast<absl::StatusCode>(head.status));
}

void Requester::AddConnection(Connection* connection) {
  connections_[connection->session()] = connection;
}
void Requester::RemoveConnection(Connection* connection) {
  connections_.erase(connection->session());
}

uint64_t Requester::AddPacket(Packet* packet) {
  packets_[next_id_] = packet;
  return next_id_++;
}

void Requester::CloseAll() {
  std::vector<Connection*> open;
  for (const auto& [session, connection] : connections_) open.push_back(connection);
  for (Connection* connection : open) connection->Fail(absl::CancelledError("transport closed"));
}

// ---- Connection: opening and closing
// ------------------------------------------------------------------

Connection::Connection(Lane& lane, Requester& requester, std::unique_ptr<Station> own,
                       size_t segment_bytes)
    : lane_(lane),
      requester_(requester),
      segment_bytes_(segment_bytes),
      window_bytes_(std::max(kWindowBytes, 2 * segment_bytes)),
      session_(RandomId()),
      health_(absl::UnavailableError("connecting")),
      own_(std::move(own)) {}

Connection::~Connection() = default;

void Connection::Open(const std::string& worker_address, uint32_t pid, absl::Duration timeout) {
  if (own_ != nullptr) lane_.Attach(*own_);
  auto endpoint = lane_.CreateEndpoint(station(), worker_address, pid, this);
  if (!endpoint.ok()) {
    if (own_ != nullptr) lane_.Detach(*own_);
    return SetState(State::kClosed, endpoint.status());
  }
  endpoint_ = *endpoint;
  watch_ = lane_.WatchProcess(pid, this);
  requester_.AddConnection(this);
  const absl::Status silent = absl::UnavailableError(
      absl::StrCat("peer did not answer over ", lane_.name(), " within ",
                   absl::FormatDuration(absl::Trunc(timeout, absl::Milliseconds(1)))));
  timer_ = lane_.At(steady_clock::now() + absl::ToChronoNanoseconds(timeout), [this, silent] {
    timer_.reset();
    Fail(silent);
  });
  hello_ = std::make_unique<Greeting>(
      *this, MessageType::kHello,
      absl::UnavailableError(absl::StrCat("peer gone, over ", lane_.name())));
  hello_->Send(station().address());
}

void Connection::OnWelcome() {
  if (state_.load() != State::kConnecting) return;
  CancelTimer(&timer_);
  SetState(State::kOpen, absl::OkStatus());
}

absl::Status Connection::WaitUntilOpen() {
  base::MutexLock lock(mutex_);
  while (state_.load() == State::kConnecting || state_.load() == State::kClosing)
    changed_.Wait(mutex_);
  return health_;
}

void Connection::WaitUntilClosed() {
  base::MutexLock lock(mutex_);
  while (state_.load() != State::kClosed) changed_.Wait(mutex_);
}

absl::Status Connection::health() const {
  base::MutexLock lock(mutex_);
  return health_;
}

void Connection::SetState(State state, absl::Status health) {
  base::MutexLock lock(mutex_);
  state_.store(state, std::memory_order_release);
  health_ = std::move(health);
  changed_.NotifyAll();
}

void Connection::CancelTimer(std::optional<Lane::Timers::iterator>* timer) {
  if (timer->has_value()) lane_.Cancel(**timer);
  timer->reset();
}

void Connection::OnEndpointError(ucs_status_t status) {
  lane_.RunLater([self = shared_from_this(), status] {
    self->Fail(absl::UnavailableError(absl::StrCat("peer gone: ", ucs_status_string(status))));
  });
}

bool Connection::Leave() {
  base::MutexLock lock(mutex_);
  if (state_.load() != State::kOpen) return false;
  state_.store(State::kLeaving, std::memory_order_release);
  health_ = absl::CancelledError("endpoint closed");
  return true;
}

void Connection::SayGoodbye() {
  if (state_.load() != State::kLeaving) return;
  const absl::Status closed = health();
  timer_ = lane_.At(steady_clock::now() + kGoodbyeGrace, [this, closed] {
    timer_.reset();
    Fail(closed);
  });
  goodbye_ = std::make_unique<Greeting>(*this, MessageType::kBye, closed);
  goodbye_->Send("");
}

void Connection::Fail(absl::Status status) {
  const State state = state_.load();
  if (state == State::kClosing || state == State::kClosed) return;
  SetState(State::kClosing, std::move(status));
  CancelTimer(&timer_);
  requester_.RemoveConnection(this);
  lane_.Unwatch(std::exchange(watch_, -1));
  queue_.clear();
  lane_.CloseEndpoint(station(), std::exchange(endpoint_, nullptr), [self = shared_from_this()] {
    self->endpoint_closed_ = true;
    // UCX has ended its operations: what still waits for an answer will get none.
    for (const auto& packet : self->packets_) {
      if (packet->in_flight()) packet->Abandon();
    }
    self->FinishClosingIfIdle();
  });
}

void Connection::FinishClosingIfIdle() {
  if (state_.load() != State::kClosing || !endpoint_closed_ || packets_in_flight_ > 0) return;
  endpoint_closed_ = false;
  lane_.RunLater([self = shared_from_this()] {
    const absl::Status status = self->health();
    for (Transfer& transfer : self->transfers_) {
      self->CancelTimer(&transfer.timer);
      std::move(transfer.done)(transfer.status.ok() ? status : transfer.status);
    }
    self->transfers_.clear();
    if (self->own_ != nullptr) self->lane_.Detach(*self->own_);
    self->SetState(State::kClosed, status);
  });
}

ucp_rkey_h Connection::UnpackKey(const std::string& key) {
  // Slack: UCX takes no length and may read past the end of damaged bytes.
  std::vector<char> bytes(key.begin(), key.end());
  bytes.resize(bytes.size() + 4096);
  ucp_rkey_h unpacked = nullptr;
  lane_.RunSync([&] {
    if (endpoint_ != nullptr && ucp_ep_rkey_unpack(endpoint_, bytes.data(), &unpacked) != UCS_OK)
      unpacked = nullptr;
  });
  return unpacked;
}

// ---- Connection: transfers
// ---------------------------------------------------------------------------

void Connection::Submit(Transfer transfer) {
  if (!open()) return std::move(transfer.done)(health());
  const absl::Duration left = transfer.deadline - absl::Now();
  if (left <= absl::ZeroDuration()) {
    return std::move(transfer.done)(
        absl::DeadlineExceededError("deadline passed before the transfer began"));
  }
  transfers_.push_back(std::move(transfer));
  const auto added = std::prev(transfers_.end());
  if (left < kForever) {
    added->timer = lane_.At(steady_clock::now() + absl::ToChronoNanoseconds(left), [this, added] {
      added->timer.reset();
      OnDeadline(added);
    });
  }
  queue_.push_back(added);
  Pump();
}

void Connection::OnDeadline(Transfers::iterator transfer) {
  transfer->status = absl::DeadlineExceededError("peer did not finish the transfer in time");
  Fail(absl::CancelledError("endpoint closed: a transfer on it ran out of time"));
}

void Connection::Pump() {
  while (open() && !queue_.empty() && bytes_in_flight_ < window_bytes_ &&
         packets_in_flight_ < kWindowPackets) {
    const Transfers::iterator transfer = queue_.front();
    Packet* packet = NewPacket(transfer);
    FillPacket(packet, &*transfer);
    if (transfer->fully_issued()) queue_.pop_front();
    ++transfer->packets;
    ++packets_in_flight_;
    bytes_in_flight_ += packet->bytes();
    packet->Issue();
  }
}

Packet* Connection::NewPacket(Transfers::iterator transfer) {
  if (free_packets_.empty()) {
    packets_.push_back(std::make_unique<Packet>(*this));
    free_packets_.push_back(packets_.back().get());
  }
  Packet* packet = free_packets_.back();
  free_packets_.pop_back();
  packet->Reset(transfer);
  return packet;
}

void Connection::FillPacket(Packet* packet, Transfer* transfer) {
  while (!transfer->fully_issued() && packet->pieces() < lane_.max_pieces()) {
    const Transfer::Part& part = transfer->parts[transfer->part];
    const size_t bytes = std::min(part.local.size() - transfer->part_offset, segment_bytes_);
    const bool packable =
        part.remote->key == nullptr && packet->bytes() + bytes <= lane_.pack_bytes();
    if (packet->pieces() > 0 && !packable) return;
    packet->Add(part, transfer->part_offset, bytes);
    transfer->part_offset += bytes;
    if (transfer->part_offset == part.local.size()) {
      ++transfer->part;
      transfer->part_offset = 0;
    }
    if (!packable) return;
  }
}

void Connection::OnPacketDone(Packet* packet) {
  const Transfers::iterator transfer = packet->transfer();
  bytes_in_flight_ -= packet->bytes();
  --packets_in_flight_;
  --transfer->packets;
  free_packets_.push_back(packet);
  if (state_.load() == State::kClosing) return FinishClosingIfIdle();
  if (!packet->status().ok() && transfer->status.ok()) {
    transfer->status = packet->status();
    if (!transfer->fully_issued()) {
      transfer->part = transfer->parts.size();
      queue_.erase(std::find(queue_.begin(), queue_.end(), transfer));
    }
  }
  if (transfer->packets == 0 && transfer->fully_issued()) Finish(transfer);
  if (std::exchange(pump_due_, true)) return;
  lane_.RunLater([self = shared_from_this()] {
    self->pump_due_ = false;
    self->Pump();
  });
}

void Connection::Finish(Transfers::iterator transfer) {
  CancelTimer(&transfer->timer);
  lane_.RunLater(
      [done = std::move(transfer->done), status = std::move(transfer->status)]() mutable {
        std::move(done)(std::move(status));
      });
  transfers_.erase(transfer);
}

}  // namespace varve::transport
