#include "kvstore/transport/ucx_responder.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"

namespace varve::transport {
namespace {

// Far above what a client needs; bounds what a misbehaving peer can make us open.
constexpr size_t kMaxSessions = 4096;
constexpr std::chrono::milliseconds kByeGrace(50);

}  // namespace

// One store's session with us: the endpoint by which we answer.
class Responder::Session final : public UcxEndpointOwner,
                                 public std::enable_shared_from_this<Responder::Session> {
 public:
  Session(Responder& responder, uint64_t id) : responder_(responder), id_(id) {}

  uint64_t id() const { return id_; }
  ucp_ep_h endpoint() const { return endpoint_; }
  bool closed() const { return endpoint_ == nullptr; }

  absl::Status Open(const std::string& worker_address, uint32_t pid) {
    auto endpoint =
        responder_.lane_.CreateEndpoint(responder_.lane_.station(), worker_address, pid, this);
    if (!endpoint.ok()) return endpoint.status();
    endpoint_ = *endpoint;
    watch_ = responder_.lane_.WatchProcess(pid, this);
    return absl::OkStatus();
  }

  // Idempotent.
  void Close() {
    if (closed()) return;
    responder_.lane_.Unwatch(std::exchange(watch_, -1));
    // Keeps this alive until UCX has let go.
    Lane& lane = responder_.lane_;
    lane.CloseEndpoint(lane.station(), std::exchange(endpoint_, nullptr),
                       [self = shared_from_this()] { self->responder_.AbandonAnswers(*self); });
  }

  void OnEndpointError(ucs_status_t status) override {
    responder_.lane_.RunLater([&responder = responder_, id = id_, status] {
      base::LogDebug("transport session ended: ", ucs_status_string(status));
      responder.CloseSession(id);
    });
  }

 private:
  Responder& responder_;
  const uint64_t id_;
  ucp_ep_h endpoint_ = nullptr;
  int watch_ = -1;
};

// One request being answered. Recycled.
class Responder::Answer final : public UcxOperation {
 public:
  explicit Answer(Responder& responder) : responder_(responder) {}

  void Reset(std::shared_ptr<Session> session, const Message& request) {
    session_ = std::move(session);
    request_ = request;
    pieces_.Clear();
    receiving_ = false;
  }

  // UCX 1.13 can forget a rendezvous operation when its endpoint is force-closed: the memory is let
  // go, and this answer is not used again unless UCX should come back to it after all.
  void Abandon() {
    abandoned_ = true;
    receiving_ = false;
    Release();
  }

  bool Uses(uint64_t region) const {
    for (size_t i = 0; i < pieces_.count(); ++i) {
      if (request_.pieces[i].region == region) return true;
    }
    return false;
  }
  bool busy() const { return session_ != nullptr; }
  const std::shared_ptr<Session>& session() const { return session_; }
  size_t bytes() const { return pieces_.bytes(); }

  absl::Status Pin() {
    while (pieces_.count() < request_.head.pieces) {
      const Piece& piece = request_.pieces[pieces_.count()];
      const auto memory = responder_.regions_.Pin(piece.region, piece.offset, piece.length);
      if (!memory.ok()) return memory.status();
      pieces_.Add(*memory, piece.length, nullptr);
    }
    return pieces_.count() > 0 ? absl::OkStatus()
                               : absl::InvalidArgumentError("request without pieces");
  }

  void SendData() {
    reply_ = MakeMessage(MessageType::kData, session_->id(), request_.head.request);
    Send(pieces_);
  }

  void SendAck(absl::StatusCode code) { SendStatus(MessageType::kAck, code); }
  void SendWelcome() { SendStatus(MessageType::kWelcome, absl::StatusCode::kOk); }

  // The bytes of an eager write.
  void Scatter(const void* data) { pieces_.Unpack(0, data, bytes()); }

  void ReceiveWrite(void* descriptor) {
    receiving_ = true;
    responder_.lane_.Receive(responder_.lane_.station(), descriptor, pieces_, this);
  }

  void Complete(ucs_status_t status) override {
    if (std::exchange(abandoned_, false)) return responder_.Recycle(this);
    if (std::exchange(receiving_, false)) {
      // An error here is the endpoint's too: its own callback ends the session.
      if (status == UCS_OK) return SendAck(absl::StatusCode::kOk);
    }
    Release();
    responder_.Recycle(this);
  }

 private:
  void Release() {
    for (size_t i = 0; i < pieces_.count(); ++i)
      responder_.regions_.Unpin(request_.pieces[i].region);
    pieces_.Clear();
    session_.reset();
  }
  void SendStatus(MessageType type, absl::StatusCode code) {
    reply_ = MakeMessage(type, session_->id(), request_.head.request);
    reply_.head.status = static_cast<uint8_t>(code);
    static const PieceList kNothing{};
    Send(kNothing);
  }
  void Send(const PieceList& pieces) {
    if (session_->closed()) return Complete(UCS_ERR_CANCELED);
    responder_.lane_.Send(responder_.lane_.station(), session_->endpoint(), reply_, pieces, this);
  }

  Responder& responder_;
  std::shared_ptr<Session> session_;
  Message request_;
  Message reply_;     // UCX reads it until the send completes
  PieceList pieces_;  // pinned
  bool receiving_ = false;
  bool abandoned_ = false;
};

Responder::Responder(Lane& lane, RegionTable& regions) : lane_(lane), regions_(regions) {}
Responder::~Responder() = default;

void Responder::OnMessage(const Incoming& incoming) {
  switch (static_cast<MessageType>(incoming.message.head.type)) {
    case MessageType::kHello:
      return OnHello(incoming);
    case MessageType::kBye: {
      // Force-closing while the peer's own close is on its way can crash UCX 1.13 over tcp (it
      // served a freed endpoint in 4 of 60 runs of 20 closes with reads outstanding): UCX gets time
      // to see the disconnection first.
      lane_.At(std::chrono::steady_clock::now() + kByeGrace,
               [this, id = incoming.message.head.session] { CloseSession(id); });
      return;
    }
    case MessageType::kRead:
      return OnRead(incoming);
    case MessageType::kWrite:
      return OnWrite(incoming);
    default:
      return;
  }
}

void Responder::OnHello(const Incoming& incoming) {
  if (incoming.rendezvous || incoming.bytes == 0) return;
  std::string address(static_cast<const char*>(incoming.data), incoming.bytes);
  const MessageHead& head = incoming.message.head;
  lane_.RunLater([this, id = head.session, pid = static_cast<uint32_t>(head.request),
                  address = std::move(address)] { OpenSession(id, pid, address); });
}

void Responder::OpenSession(uint64_t id, uint32_t pid, const std::string& worker_address) {
  if (sessions_.contains(id) || sessions_.size() >= kMaxSessions) return;
  auto session = std::make_shared<Session>(*this, id);
  const absl::Status status = session->Open(worker_address, pid);
  if (!status.ok()) return base::LogWarning("transport session refused: ", status.ToString());
  sessions_[id] = session;
  NewAnswer(std::move(session), MakeMessage(MessageType::kHello, id, 0))->SendWelcome();
}

void Responder::CloseSession(uint64_t id) {
  const auto it = sessions_.find(id);
  if (it == sessions_.end()) return;
  it->second->Close();
  sessions_.erase(it);
}

void Responder::CloseSessions(uint64_t region) {
  for (const auto& answer : answers_) {
    if (region != 0 && answer->busy() && answer->Uses(region))
      CloseSession(answer->session()->id());
  }
  if (region != 0) return;
  for (const auto& [id, session] : sessions_) session->Close();
  sessions_.clear();
}

void Responder::AbandonAnswers(const Session& session) {
  for (const auto& answer : answers_) {
    if (answer->session().get() == &session) answer->Abandon();
  }
}

void Responder::OnRead(const Incoming& incoming) {
  std::shared_ptr<Session> session = Find(incoming.message.head.session);
  if (session == nullptr) return;
  Answer* answer = NewAnswer(std::move(session), incoming.message);
  const absl::Status status = answer->Pin();
  if (!status.ok()) return answer->SendAck(status.code());
  answer->SendData();
}

void Responder::OnWrite(const Incoming& incoming) {
  std::shared_ptr<Session> session = Find(incoming.message.head.session);
  if (session == nullptr) return;
  Answer* answer = NewAnswer(std::move(session), incoming.message);
  const absl::Status status = answer->Pin();
  if (!status.ok()) return answer->SendAck(status.code());
  if (answer->bytes() != incoming.bytes) return answer->SendAck(absl::StatusCode::kInvalidArgument);
  if (incoming.rendezvous) return answer->ReceiveWrite(incoming.data);
  answer->Scatter(incoming.data);
  answer->SendAck(absl::StatusCode::kOk);
}

std::shared_ptr<Responder::Session> Responder::Find(uint64_t id) const {
  const auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : it->second;
}

Responder::Answer* Responder::NewAnswer(std::shared_ptr<Session> session, const Message& request) {
  if (free_answers_.empty()) {
    answers_.push_back(std::make_unique<Answer>(*this));
    free_answers_.push_back(answers_.back().get());
  }
  Answer* answer = free_answers_.back();
  free_answers_.pop_back();
  answer->Reset(std::move(session), request);
  return answer;
}

void Responder::Recycle(Answer* answer) { free_answers_.push_back(answer); }

}  // namespace varve::transport
