#include "kvstore/server/store_service.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "kvstore/server/object_service.h"
#include "kvstore/server/session_stream.h"
#include "kvstore/server/unary_call.h"

namespace varve::server {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
namespace v1 = varve::v1;

class StoreService final : public v1::Store::CallbackService {
 public:
  explicit StoreService(Core& core) : core_(core), objects_(core) {}

  SessionReactor* Session(CallbackServerContext* context) override {
    return StartSessionStream(core_, context->peer());
  }

  ServerUnaryReactor* Exists(CallbackServerContext*, const v1::ExistsRequest* request,
                             v1::ExistsReply* reply) override {
    return Unary("Exists", [&](Answer answer) { objects_.Exists(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* LongestPrefix(CallbackServerContext*, const v1::LongestPrefixRequest* request,
                                    v1::LongestPrefixReply* reply) override {
    return Unary("LongestPrefix",
                 [&](Answer answer) { objects_.LongestPrefix(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* Put(CallbackServerContext*, const v1::PutRequest* request,
                          v1::PutReply* reply) override {
    return Unary("Put", [&](Answer answer) { objects_.Put(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* Get(CallbackServerContext*, const v1::GetRequest* request,
                          v1::GetReply* reply) override {
    return Unary("Get", [&](Answer answer) { objects_.Get(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* Remove(CallbackServerContext*, const v1::RemoveRequest* request,
                             v1::RemoveReply* reply) override {
    return Unary("Remove", [&](Answer answer) { objects_.Remove(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* Pin(CallbackServerContext*, const v1::PinRequest* request,
                          v1::PinReply* reply) override {
    return Unary("Pin", [&](Answer answer) { objects_.Pin(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* List(CallbackServerContext*, const v1::ListRequest* request,
                           v1::ListReply* reply) override {
    return Unary("List", [&](Answer answer) { objects_.List(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* Echo(CallbackServerContext*, const v1::EchoMessage* request,
                           v1::EchoMessage* reply) override {
    return Unary("Echo", [&](Answer answer) {
      reply->set_payload(request->payload());
      std::move(answer)(absl::OkStatus());
    });
  }

 private:
  template <typename Handler>
  ServerUnaryReactor* Unary(const char* method, Handler&& handler) {
    return (new UnaryCall(core_.metrics.method(method)))->Run(std::forward<Handler>(handler));
  }

  Core& core_;
  ObjectService objects_;
};

}  // namespace

std::unique_ptr<v1::Store::CallbackService> MakeStoreService(Core& core) {
  return std::make_unique<StoreService>(core);
}

}  // namespace varve::server
