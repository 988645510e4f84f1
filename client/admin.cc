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
