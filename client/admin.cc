// Administration: works without a session.
#include "client/client_impl.h"
#include "kvstore/base/status.h"

namespace varve::client {

absl::StatusOr<StoreStatus> ClientImpl::Status() {
  v1::StoreStatus status;
  VARVE_RETURN_IF_ERROR(Explain(CallBare(&v1::Store::StubInterface::GetStatus,
                                         v1::GetStatusRequest(), &status, options_.call_timeout)));
  return FromProto(status);
}

absl::StatusOr<std::string> ClientImpl::Config() {
  v1::GetConfigReply reply;
  VARVE_RETURN_IF_ERROR(Explain(CallBare(&v1::Store::StubInterface::GetConfig,
                                         v1::GetConfigRequest(), &reply, options_.call_timeout)));
  return std::move(*reply.mutable_text());
}

absl::Status ClientImpl::Drain() {
  v1::DrainReply reply;
  return Explain(CallBare(&v1::Store::StubInterface::Drain, v1::DrainRequest(), &reply,
                          options_.call_timeout));
}

absl::StatusOr<EvictOutcome> ClientImpl::Evict(const std::string& key_namespace,
                                               std::string_view key_prefix) {
  v1::EvictRequest request;
  request.set_key_namespace(key_namespace);
  request.set_key_prefix(key_prefix.data(), key_prefix.size());
  v1::EvictReply reply;
  VARVE_RETURN_IF_ERROR(
      Explain(CallBare(&v1::Store::StubInterface::Evict, request, &reply, options_.call_timeout)));
  return EvictOutcome{reply.objects(), reply.bytes(), reply.kept()};
}

absl::StatusOr<std::vector<std::string>> ClientImpl::ListNamespaces() {
  std::vector<std::string> names;
  v1::ListNamespacesRequest request;
  do {
    v1::ListNamespacesReply reply;
    VARVE_RETURN_IF_ERROR(Explain(CallBare(&v1::Store::StubInterface::ListNamespaces, request,
                                           &reply, options_.call_timeout)));
    names.insert(names.end(), reply.names().begin(), reply.names().end());
    request.set_page_token(reply.next_page_token());
  } while (!request.page_token().empty());
  return names;
}

template <typename Request, typename Reply>
void ClientImpl::CallBareAsync(AsyncMethod<Request, Reply> method, const Request& request,
                               std::function<void(absl::Status, const Reply&)> done) {
  struct State {
    std::optional<grpc::ClientContext> context{std::in_place};
    Request request;
    Reply reply;
  };
  auto state = std::make_shared<State>();
  state->request = request;
  const InFlight::Call call = in_flight_.Add(&*state->context);
  if (call == 0) return done(ClosingError(), Reply());
  (stub_->async()->*method)(
      &*state->context, &state->request, &state->reply,
      [this, state, call, done = std::move(done)](const grpc::Status& status) {
        done(Explain(FromGrpc(status)), state->reply);
        in_flight_.Release(call);
        state->context.reset();
        in_flight_.Remove(call);
      });
}

absl::Status ClientImpl::AddDirectory(const std::string& path, uint64_t capacity_bytes) {
  v1::AddDirectoryRequest request;
  request.set_path(path);
  request.set_capacity_bytes(capacity_bytes);
  v1::AddDirectoryReply reply;
  return Explain(
      CallBare(&v1::Store::StubInterface::AddDirectory, request, &reply, options_.call_timeout));
}

void ClientImpl::DrainDirectoryAsync(const std::string& path,
                                     std::function<void(absl::Status)> done) {
  v1::DrainDirectoryRequest request;
  request.set_path(path);
  CallBareAsync<v1::DrainDirectoryRequest, v1::DrainDirectoryReply>(
      &v1::Store::StubInterface::async_interface::DrainDirectory, request,
      [done = std::move(done)](const absl::Status& status, const v1::DrainDirectoryReply&) {
        done(status);
      });
}

void ClientImpl::DrainTierAsync(Tier tier, std::function<void(absl::StatusOr<uint64_t>)> done) {
  v1::DrainTierRequest request;
  request.set_tier(ToProto(tier));
  CallBareAsync<v1::DrainTierRequest, v1::DrainTierReply>(
      &v1::Store::StubInterface::async_interface::DrainTier, request,
      [done = std::move(done)](const absl::Status& status, const v1::DrainTierReply& reply) {
        if (!status.ok()) return done(status);
        done(reply.memory_only_objects());
      });
}

void ClientImpl::ResizeTierAsync(Tier tier, uint64_t capacity_bytes,
                                 std::function<void(absl::Status)> done) {
  v1::ResizeTierRequest request;
  request.set_tier(ToProto(tier));
  request.set_capacity_bytes(capacity_bytes);
  CallBareAsync<v1::ResizeTierRequest, v1::ResizeTierReply>(
      &v1::Store::StubInterface::async_interface::ResizeTier, request,
      [done = std::move(done)](const absl::Status& status, const v1::ResizeTierReply&) {
        done(status);
      });
}

absl::Status ClientImpl::Echo(size_t bytes) {
  v1::EchoMessage message;
  message.mutable_payload()->resize(bytes);
  v1::EchoMessage reply;
  VARVE_RETURN_IF_ERROR(
      Explain(CallBare(&v1::Store::StubInterface::Echo, message, &reply, options_.call_timeout)));
  if (reply.payload().size() == bytes) return absl::OkStatus();
  return absl::InternalError("the echo has another length than its request");
}

}  // namespace varve::client
