#include "kvstore/server/store_service.h"

#include <grpcpp/grpcpp.h>

#include <utility>

#include "kvstore/server/arena_messages.h"
#include "kvstore/server/context_service.h"
#include "kvstore/server/digest_streams.h"
#include "kvstore/server/inline_service.h"
#include "kvstore/server/object_service.h"
#include "kvstore/server/recall_service.h"
#include "kvstore/server/recall_stream.h"
#include "kvstore/server/session_stream.h"
#include "kvstore/server/unary_call.h"

namespace varve::server {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;
namespace v1 = varve::v1;

class StoreService final : public v1::Store::CallbackService {
 public:
  StoreService(Core& core, AdminService& admin, TierAdmin& tiers)
      : core_(core), admin_(admin), tiers_(tiers), objects_(core), contexts_(core) {
    SetMessageAllocatorFor_Put(&put_messages_);
    SetMessageAllocatorFor_Get(&get_messages_);
  }

  SessionReactor* Session(CallbackServerContext* context) override {
    return StartSessionStream(core_, context->peer());
  }

  ServerUnaryReactor* Exists(CallbackServerContext*, const v1::ExistsRequest* request,
                             v1::ExistsReply* reply) override {
    return Now("Exists", [&] { return objects_.Exists(*request, reply); });
  }
  ServerUnaryReactor* LongestPrefix(CallbackServerContext*, const v1::LongestPrefixRequest* request,
                                    v1::LongestPrefixReply* reply) override {
    return Now("LongestPrefix", [&] { return objects_.LongestPrefix(*request, reply); });
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
    return Unary("Remove",
                 [&](Answer answer) { objects_.Remove(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* Pin(CallbackServerContext*, const v1::PinRequest* request,
                          v1::PinReply* reply) override {
    return Now("Pin", [&] { return objects_.Pin(*request, reply); });
  }
  ServerUnaryReactor* List(CallbackServerContext*, const v1::ListRequest* request,
                           v1::ListReply* reply) override {
    return Now("List", [&] { return objects_.List(*request, reply); });
  }

  ServerUnaryReactor* Prefetch(CallbackServerContext*, const v1::PrefetchRequest* request,
                               v1::PrefetchReply* reply) override {
    return Now("Prefetch", [&] { return objects_.Prefetch(*request, reply); });
  }

  PutInlineReactor* PutInline(CallbackServerContext*) override { return StartPutInline(core_); }
  grpc::ServerWriteReactor<v1::GetInlineReply>* GetInline(
      CallbackServerContext*, const v1::GetInlineRequest* request) override {
    return StartGetInline(core_, *request);
  }

  ServerUnaryReactor* OpenContext(CallbackServerContext*, const v1::OpenContextRequest* request,
                                  v1::ContextInfo* reply) override {
    return Now("OpenContext", [&] { return contexts_.Open(*request, reply); });
  }
  ServerUnaryReactor* AppendContext(CallbackServerContext*, const v1::AppendContextRequest* request,
                                    v1::ContextInfo* reply) override {
    return Now("AppendContext", [&] { return contexts_.Append(*request, reply); });
  }
  ServerUnaryReactor* TruncateContext(CallbackServerContext*,
                                      const v1::TruncateContextRequest* request,
                                      v1::ContextInfo* reply) override {
    return Now("TruncateContext", [&] { return contexts_.Truncate(*request, reply); });
  }
  ServerUnaryReactor* ForkContext(CallbackServerContext*, const v1::ForkContextRequest* request,
                                  v1::ContextInfo* reply) override {
    return Now("ForkContext", [&] { return contexts_.Fork(*request, reply); });
  }
  ServerUnaryReactor* AttachContext(CallbackServerContext*, const v1::ContextRef* request,
                                    v1::ContextInfo* reply) override {
    return Now("AttachContext", [&] { return contexts_.Attach(*request, reply); });
  }
  ServerUnaryReactor* ParkContext(CallbackServerContext*, const v1::ParkContextRequest* request,
                                  v1::ContextInfo* reply) override {
    return Now("ParkContext", [&] { return contexts_.Park(*request, reply); });
  }
  ServerUnaryReactor* DropContext(CallbackServerContext*, const v1::ContextRef* request,
                                  v1::DropContextReply* reply) override {
    return Now("DropContext", [&] { return contexts_.Drop(*request, reply); });
  }
  ServerUnaryReactor* ListContexts(CallbackServerContext*, const v1::ListContextsRequest* request,
                                   v1::ListContextsReply* reply) override {
    return Now("ListContexts", [&] { return contexts_.List(*request, reply); });
  }

  DigestReactor* StreamDigests(CallbackServerContext*) override { return StartDigestStream(core_); }
  grpc::ServerWriteReactor<v1::DigestBatch>* ReadDigests(
      CallbackServerContext*, const v1::ReadDigestsRequest* request) override {
    return StartReadDigests(core_, *request);
  }
  ServerUnaryReactor* Recall(CallbackServerContext*, const v1::RecallRequest* request,
                             v1::RecallReply* reply) override {
    return Unary("Recall",
                 [&](Answer answer) { StartRecall(core_, *request, reply, std::move(answer)); });
  }
  RecallReactor* RecallStream(CallbackServerContext*) override { return StartRecallStream(core_); }

  ServerUnaryReactor* GetStatus(CallbackServerContext*, const v1::GetStatusRequest*,
                                v1::StoreStatus* reply) override {
    return Now("GetStatus", [&] {
      admin_.FillStatus(reply);
      return absl::OkStatus();
    });
  }
  ServerUnaryReactor* GetConfig(CallbackServerContext*, const v1::GetConfigRequest*,
                                v1::GetConfigReply* reply) override {
    return Now("GetConfig", [&] {
      reply->set_text(admin_.config_text());
      return absl::OkStatus();
    });
  }
  ServerUnaryReactor* Drain(CallbackServerContext*, const v1::DrainRequest*,
                            v1::DrainReply*) override {
    return Now("Drain", [&] {
      admin_.Drain();
      return absl::OkStatus();
    });
  }
  ServerUnaryReactor* Evict(CallbackServerContext*, const v1::EvictRequest* request,
                            v1::EvictReply* reply) override {
    return Unary("Evict", [&](Answer answer) {
      // As long as there are objects: not on a gRPC thread.
      core_.data_pool.Run([this, request, reply, answer = std::move(answer)]() mutable {
        std::move(answer)(admin_.Evict(*request, reply));
      });
    });
  }
  ServerUnaryReactor* ListNamespaces(CallbackServerContext*,
                                     const v1::ListNamespacesRequest* request,
                                     v1::ListNamespacesReply* reply) override {
    return Now("ListNamespaces", [&] { return admin_.ListNamespaces(*request, reply); });
  }
  ServerUnaryReactor* AddDirectory(CallbackServerContext*, const v1::AddDirectoryRequest* request,
                                   v1::AddDirectoryReply*) override {
    return Unary("AddDirectory",
                 [&](Answer answer) { tiers_.AddDirectory(*request, std::move(answer)); });
  }
  ServerUnaryReactor* DrainDirectory(CallbackServerContext*,
                                     const v1::DrainDirectoryRequest* request,
                                     v1::DrainDirectoryReply*) override {
    return Unary("DrainDirectory",
                 [&](Answer answer) { tiers_.DrainDirectory(*request, std::move(answer)); });
  }
  ServerUnaryReactor* ResizeTier(CallbackServerContext*, const v1::ResizeTierRequest* request,
                                 v1::ResizeTierReply*) override {
    return Unary("ResizeTier",
                 [&](Answer answer) { tiers_.ResizeTier(*request, std::move(answer)); });
  }
  ServerUnaryReactor* DrainTier(CallbackServerContext*, const v1::DrainTierRequest* request,
                                v1::DrainTierReply* reply) override {
    return Unary("DrainTier",
                 [&](Answer answer) { tiers_.DrainTier(*request, reply, std::move(answer)); });
  }
  ServerUnaryReactor* Echo(CallbackServerContext*, const v1::EchoMessage* request,
                           v1::EchoMessage* reply) override {
    return Now("Echo", [&] {
      reply->set_payload(request->payload());
      return absl::OkStatus();
    });
  }

 private:
  template <typename Handler>
  ServerUnaryReactor* Unary(const char* method, Handler&& handler) {
    return (new UnaryCall(core_.metrics.method(method)))->Run(std::forward<Handler>(handler));
  }
  // For handlers that answer before they return.
  template <typename Handler>
  ServerUnaryReactor* Now(const char* method, Handler&& handler) {
    return Unary(method, [&](Answer answer) { std::move(answer)(handler()); });
  }

  Core& core_;
  AdminService& admin_;
  TierAdmin& tiers_;
  ObjectService objects_;
  ContextService contexts_;
  ArenaMessages<v1::PutRequest, v1::PutReply> put_messages_;
  ArenaMessages<v1::GetRequest, v1::GetReply> get_messages_;
};

}  // namespace

std::unique_ptr<v1::Store::CallbackService> MakeStoreService(Core& core, AdminService& admin,
                                                             TierAdmin& tiers) {
  return std::make_unique<StoreService>(core, admin, tiers);
}

}  // namespace varve::server
