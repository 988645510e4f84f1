// Requests of many small messages, and their replies, in a few pieces of memory each.
#pragma once

#include <grpcpp/support/message_allocator.h>

#include "google/protobuf/arena.h"
#include "kvstore/base/message_arena.h"

namespace varve::server {

// Makes the messages of one method's calls; for SetMessageAllocatorFor_<method>.
template <typename Request, typename Reply>
class ArenaMessages final : public grpc::MessageAllocator<Request, Reply> {
 public:
  grpc::MessageHolder<Request, Reply>* AllocateMessages() override { return new Call; }

 private:
  // Of one call; gRPC releases it.
  class Call final : public grpc::MessageHolder<Request, Reply> {
   public:
    Call() : arena_(base::MessageArena()) {
      this->set_request(google::protobuf::Arena::CreateMessage<Request>(&arena_));
      this->set_response(google::protobuf::Arena::CreateMessage<Reply>(&arena_));
    }
    void Release() override { delete this; }

   private:
    google::protobuf::Arena arena_;
  };
};

}  // namespace varve::server
