#include "kvstore/transport/ucx_port.h"

#include <utility>

namespace varve::transport {

Port::Port(std::unique_ptr<Lane> lane, RegionTable& regions)
    : responder_(std::make_unique<Responder>(*lane, regions)), lane_(std::move(lane)) {
  lane_->Start([this](const Incoming& incoming) {
    switch (static_cast<MessageType>(incoming.message.head.type)) {
      case MessageType::kWelcome:
      case MessageType::kData:
      case MessageType::kAck:
        return requester_.OnMessage(incoming);
      default:
        return responder_->OnMessage(incoming);
    }
  });
}

void Port::CloseSessions(uint64_t region) {
  lane_->RunSync([&] { responder_->CloseSessions(region); });
}

void Port::Close() {
  lane_->RunSync([&] {
    requester_.CloseAll();
    responder_->CloseSessions(0);
  });
  lane_->Stop();
}

}  // namespace varve::transport
