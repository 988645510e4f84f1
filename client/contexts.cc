// Calls on contexts and their digests.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/client_impl.h"
#include "kvstore/base/status.h"

namespace varve::client {
namespace {

constexpr uint32_t kContextsPerPage = 1000;

v1::ContextRef Ref(const std::string& id) {
  v1::ContextRef ref;
  ref.set_context_id(id);
  return ref;
}

}  // namespace

absl::Status ErrorIn(const v1::DigestAck& ack) {
  if (ack.error().empty() && ack.error_code() == 0) return absl::OkStatus();
  // A store of before the code had this one in mind, mostly.
  const auto code = ack.error_code() == 0 ? absl::StatusCode::kFailedPrecondition
                                          : static_cast<absl::StatusCode>(ack.error_code());
  return absl::Status(
      code, absl::StrCat("context ", ack.context_id(), ", layer ", ack.layer(), ": ", ack.error()));
}

absl::StatusOr<ContextInfo> ClientImpl::OpenContext(const std::string& id,
                                                    const page::Geometry& geometry,
                                                    page::DigestKind kind) {
  v1::OpenContextRequest request;
  request.set_context_id(id);
  *request.mutable_geometry() = ToProto(geometry);
  request.set_digest_kind(ToProto(kind));
  v1::ContextInfo info;
  VARVE_RETURN_IF_ERROR(
      Call(&v1::Store::StubInterface::OpenContext, request, &info, options_.call_timeout));
  return FromProto(info);
}

absl::StatusOr<ContextInfo> ClientImpl::AppendContext(const std::string& id, uint32_t first_block,
                                                      std::span<const std::string> block_hashes) {
  v1::ContextInfo info;
  do {
    const auto part = block_hashes.first(std::min(block_hashes.size(), batch_limit()));
    v1::AppendContextRequest request;
    request.set_context_id(id);
    request.set_first_block(first_block);
    for (const std::string& hash : part) request.add_block_hashes(hash);
    VARVE_RETURN_IF_ERROR(
        Call(&v1::Store::StubInterface::AppendContext, request, &info, options_.call_timeout));
    first_block += static_cast<uint32_t>(part.size());
    block_hashes = block_hashes.subspan(part.size());
  } while (!block_hashes.empty());
  return FromProto(info);
}

absl::StatusOr<ContextInfo> ClientImpl::TruncateContext(const std::string& id,
                                                        uint32_t num_blocks) {
  v1::TruncateContextRequest request;
  request.set_context_id(id);
  request.set_num_blocks(num_blocks);
  v1::ContextInfo info;
  VARVE_RETURN_IF_ERROR(
      Call(&v1::Store::StubInterface::TruncateContext, request, &info, options_.call_timeout));
  return FromProto(info);
}

absl::StatusOr<ContextInfo> ClientImpl::ForkContext(const std::string& id,
                                                    const std::string& new_id,
                                                    uint32_t num_blocks) {
  v1::ForkContextRequest request;
  request.set_context_id(id);
  request.set_new_context_id(new_id);
  request.set_num_blocks(num_blocks);
  v1::ContextInfo info;
  VARVE_RETURN_IF_ERROR(
      Call(&v1::Store::StubInterface::ForkContext, request, &info, options_.call_timeout));
  return FromProto(info);
}

absl::StatusOr<ContextInfo> ClientImpl::AttachContext(const std::string& id) {
  v1::ContextRef ref = Ref(id);
  v1::ContextInfo info;
  VARVE_RETURN_IF_ERROR(
      Call(&v1::Store::StubInterface::AttachContext, ref, &info, options_.call_timeout));
  return FromProto(info);
}

absl::StatusOr<ContextInfo> ClientImpl::ParkContext(const std::string& id,
                                                    std::span<const HotPages> hot) {
  v1::ParkContextRequest request;
  request.set_context_id(id);
  for (const HotPages& entry : hot) *request.add_hot() = ToProto(entry);
  v1::ContextInfo info;
  VARVE_RETURN_IF_ERROR(
      Call(&v1::Store::StubInterface::ParkContext, request, &info, options_.call_timeout));
  return FromProto(info);
}

absl::Status ClientImpl::DropContext(const std::string& id) {
  v1::ContextRef ref = Ref(id);
  v1::DropContextReply reply;
  return Call(&v1::Store::StubInterface::DropContext, ref, &reply, options_.call_timeout);
}

absl::StatusOr<std::vector<ContextInfo>> ClientImpl::ListContexts() {
  std::vector<ContextInfo> contexts;
  v1::ListContextsRequest request;
  request.set_page_size(kContextsPerPage);
  do {
    v1::ListContextsReply reply;
    VARVE_RETURN_IF_ERROR(
        Call(&v1::Store::StubInterface::ListContexts, request, &reply, options_.call_timeout));
    for (const v1::ContextInfo& info : reply.contexts()) contexts.push_back(FromProto(info));
    request.set_page_token(reply.next_page_token());
  } while (!request.page_token().empty());
  return contexts;
}

absl::Status ClientImpl::SendDigests(const std::string& id, uint32_t epoch, uint32_t layer,
                                     uint32_t first_block, uint32_t num_blocks, std::string rows,
                                     absl::Time sealed) {
  v1::DigestBatch batch;
  batch.set_context_id(id);
  batch.set_epoch(epoch);
  batch.set_layer(layer);
  batch.set_first_block(first_block);
  batch.set_num_blocks(num_blocks);
  batch.set_rows(std::move(rows));
  batch.set_sealed_unix_us(static_cast<uint64_t>(absl::ToUnixMicros(sealed)));
  return ExchangeInSession(digests_, std::move(batch), 0).status();
}

absl::Status ClientImpl::ReadDigests(
    const std::string& id, uint32_t epoch, uint32_t layer_begin, uint32_t layer_count,
    const std::function<absl::Status(uint32_t, uint32_t, uint32_t, std::string_view)>& sink) {
  v1::ReadDigestsRequest request;
  request.set_context_id(id);
  request.set_epoch(epoch);
  request.set_layer_begin(layer_begin);
  request.set_layer_count(layer_count);
  for (bool retried = false;; retried = true) {
    absl::StatusOr<Session::OpenedPtr> session = session_.Acquire();
    if (!session.ok()) return Explain(session.status());
    request.set_session_id((*session)->session_id);
    grpc::ClientContext context;
    const absl::Duration patience = CallDeadline::Shorten(options_.call_timeout);
    context.set_deadline(absl::ToChronoTime(absl::Now() + patience));
    const InFlight::Call call = in_flight_.Add(&context);
    if (call == 0) return ClosingError();
    auto reader = stub_->ReadDigests(&context, request);
    absl::Status refused;
    v1::DigestBatch batch;
    while (refused.ok() && reader->Read(&batch)) {
      refused = sink(batch.layer(), batch.first_block(), batch.num_blocks(), batch.rows());
    }
    if (!refused.ok()) context.TryCancel();
    const absl::Status status = FromGrpc(reader->Finish());
    in_flight_.Remove(call);
    if (!refused.ok()) return refused;
    if (status.code() != absl::StatusCode::kUnauthenticated) return Explain(status);
    session_.Lost((*session)->generation);
    if (retried) return Explain(status);
  }
}

}  // namespace varve::client
