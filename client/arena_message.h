// Messages of many small ones: made, parsed and forgotten in a few pieces of memory.
#pragma once

#include <memory>

#include "google/protobuf/arena.h"
#include "kvstore/base/message_arena.h"

namespace varve::client {

// Its arena lives as long as it does.
template <typename Message>
std::shared_ptr<Message> MakeArenaMessage() {
  auto arena = std::make_shared<google::protobuf::Arena>(base::MessageArena());
  auto* message = google::protobuf::Arena::CreateMessage<Message>(arena.get());
  return {std::move(arena), message};
}

}  // namespace varve::client
