#include "kvstore/server/inline_service.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/server/config.h"
#include "kvstore/server/convert.h"
#include "kvstore/server/get_batch.h"
#include "kvstore/server/put_batch.h"

namespace varve::server {
namespace {

using varve::v1::GetInlineReply;
using varve::v1::GetInlineRequest;
using varve::v1::PutInlineRequest;
using varve::v1::PutItemResult;

class PutInlineStream final : public StreamCall<PutInlineRequest, PutItemResult> {
 public:
  // One message at a time: the pieces of an object come in order.
  explicit PutInlineStream(Core& core) : StreamCall(core, "PutInline", 1) {}

 private:
  // Copies and checksums: not on a gRPC thread.
  void OnRequest(std::unique_ptr<PutInlineRequest> request) override {
    core().streams.Expect(stream_id(), absl::InfiniteFuture());
    core().data_pool.Run([this, self = shared_from_this(), request = std::move(request)] {
      Respond(*request, Take(*request));
    });
  }

  std::unique_ptr<PutItemResult> Take(const PutInlineRequest& request) {
    if (!request.session_id().empty()) session_id_ = request.session_id();
    // Looked up each time: a stream must not keep the endpoint of an ended session alive.
    const absl::StatusOr<SessionRef> session = RequireSession(core(), session_id_);
    if (!session.ok()) {
      handle_.reset();
      End(session.status());
      return nullptr;
    }
    // It may end while the client is not sending: what is reserved must not outlive it.
    core().streams.Bind(stream_id(), (*session)->number());
    if ((*session)->ended()) End(SessionEnded());
    if (!open_) {
      BeginObject(**session, request);
    } else if (status_.ok() && !request.key().empty() && request.key() != key_) {
      status_ = absl::InvalidArgumentError(
          "key differs from that of the object's first message; allowed: the same, or none, until "
          "the message with last");
    }
    if (status_.ok()) status_ = Append(request.data());
    if (!status_.ok()) handle_.reset();
    if (request.last()) return EndObject();
    if (handle_ != nullptr) {
      core().streams.Expect(stream_id(), absl::Now() + IdleLimit(core()));
    }
    return nullptr;
  }

  absl::Status OnInputEnded() override {
    if (!open_) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the stream ended after ", received_,
                     " bytes of an object; allowed: after a message with last"));
  }

  void BeginObject(const Session& session, const PutInlineRequest& request) {
    open_ = true;
    received_ = 0;
    key_ = request.key();
    crc32c_ = request.has_crc32c() ? std::optional(request.crc32c()) : std::nullopt;
    status_ = Reserve(session, request);
  }

  absl::Status Reserve(const Session& session, const PutInlineRequest& request) {
    VARVE_ASSIGN_OR_RETURN(const page::ObjectKey key, ParseKey(request.key()));
    VARVE_ASSIGN_OR_RETURN(
        const store::ObjectMeta meta,
        ParseMeta(core(), request.total_bytes(), request.layout(), request.codec()));
    VARVE_ASSIGN_OR_RETURN(handle_, core().pages.Reserve(session.ns(), key, meta));
    return absl::OkStatus();
  }

  absl::Status Append(const std::string& data) {
    if (data.size() > kMaxInlineChunkBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "data of ", data.size(), " bytes in one message; allowed: up to ", kMaxInlineChunkBytes));
    }
    if (data.size() > handle_->memory().size() - received_) {
      return absl::InvalidArgumentError(
          absl::StrCat("more data than total_bytes ", handle_->memory().size()));
    }
    handle_->CopyFrom(received_, data.data(), data.size());
    received_ += data.size();
    return absl::OkStatus();
  }

  std::unique_ptr<PutItemResult> EndObject() {
    open_ = false;
    if (status_.ok() && received_ < handle_->memory().size()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(
          "last after ", received_, " bytes of total_bytes ", handle_->memory().size()));
    }
    if (status_.ok()) status_ = handle_->Commit(crc32c_);
    handle_.reset();
    auto result = std::make_unique<PutItemResult>();
    result->set_key(key_);
    result->set_result(ToPutResult(status_));
    if (!status_.ok()) result->set_message(std::string(status_.message()));
    core().metrics.CountPut(result->result());
    return result;
  }

  std::string session_id_;
  // Of the object whose messages are coming in. After an error its other messages are read and
  // dropped.
  bool open_ = false;
  uint64_t received_ = 0;
  absl::Status status_;
  std::string key_;
  std::optional<uint32_t> crc32c_;
  std::unique_ptr<store::PutHandle> handle_;
};

// Walks the items of a GetInline in chunks.
class InlineSource {
 public:
  static absl::StatusOr<SendCall<GetInlineReply>::Source> Make(Core& core, const Session& session,
                                                               const GetInlineRequest& request) {
    VARVE_RETURN_IF_ERROR(CountReject(
        core, "batch_items",
        CheckBatchSize("items", request.items_size(), core.config.sessions().max_batch_items())));
    return SendCall<GetInlineReply>::Source(
        [source = InlineSource(core, session.ns(), request)](GetInlineReply* reply) mutable {
          return source.Next(reply);
        });
  }

 private:
  InlineSource(Core& core, store::NamespaceId ns, const GetInlineRequest& request)
      : core_(&core), ns_(ns), request_(&request) {}

  // Is asked again when the client has taken the message before.
  absl::StatusOr<bool> Next(GetInlineReply* reply) {
    if (sent_bytes_.has_value()) CountHit(*core_, *sent_bytes_);
    sent_bytes_.reset();
    if (item_ >= request_->items_size()) return false;
    reply->set_item(item_);
    if (handle_ == nullptr && !BeginItem(reply->mutable_result())) {
      reply->set_last(true);
      ++item_;
      return true;
    }
    reply->clear_result();
    FillChunk(reply->mutable_data());
    if (extent_ < extents_.size()) return true;
    SetHit(*handle_, item_bytes_, reply->mutable_result());
    sent_bytes_ = item_bytes_;
    reply->set_last(true);
    handle_.reset();
    ++item_;
    return true;
  }

  // False: the result says why there is nothing to send.
  bool BeginItem(varve::v1::GetItemResult* result) {
    store::Miss miss;
    absl::Status status = Acquire(&miss);
    if (!status.ok()) {
      handle_.reset();
      result->set_message(std::string(status.message()));
    } else if (handle_ == nullptr) {
      SetMiss(*core_, miss.reason, result);
    }
    return handle_ != nullptr;
  }

  absl::Status Acquire(store::Miss* miss) {
    const varve::v1::GetInlineItem& item = request_->items(item_);
    VARVE_ASSIGN_OR_RETURN(const page::ObjectKey key, ParseKey(item.key()));
    VARVE_ASSIGN_OR_RETURN(const page::ObjectRange range, ParseRange(item.range()));
    handle_ = core_->pages.Acquire(ns_, key, miss);
    if (handle_ == nullptr) return absl::OkStatus();
    VARVE_ASSIGN_OR_RETURN(item_bytes_, CheckRange(handle_->meta(), range));
    if (core_->config.host_tier().verify_reads() && !handle_->Verify(range).ok()) {
      handle_.reset();
      miss->reason = store::MissReason::kCorrupt;
      return absl::OkStatus();
    }
    extents_.clear();
    ForEachPiece(handle_->meta(), range,
                 [this](page::Extent extent) { extents_.push_back(extent); });
    extent_ = 0;
    return absl::OkStatus();
  }

  void FillChunk(std::string* data) {
    while (extent_ < extents_.size() && data->size() < kMaxInlineChunkBytes) {
      page::Extent& extent = extents_[extent_];
      const size_t n = std::min(extent.bytes, kMaxInlineChunkBytes - data->size());
      data->append(reinterpret_cast<const char*>(handle_->memory().data()) + extent.offset, n);
      extent.offset += n;
      extent.bytes -= n;
      if (extent.bytes == 0) ++extent_;
    }
  }

  Core* core_;
  store::NamespaceId ns_;
  const GetInlineRequest* request_;  // owned by gRPC, as long as the call
  int item_ = 0;
  std::unique_ptr<store::GetHandle> handle_;  // of item_, while it is being sent
  std::vector<page::Extent> extents_;         // what is left of it
  size_t extent_ = 0;
  uint64_t item_bytes_ = 0;
  std::optional<uint64_t> sent_bytes_;  // of an object whose last chunk is on its way
};

}  // namespace

PutInlineReactor* StartPutInline(Core& core) {
  return std::make_shared<PutInlineStream>(core)->Begin();
}

grpc::ServerWriteReactor<GetInlineReply>* StartGetInline(Core& core,
                                                         const GetInlineRequest& request) {
  return std::make_shared<SendCall<GetInlineReply>>(core, "GetInline")
      ->Begin(RequireSession(core, request.session_id()),
              [&](const Session& session) { return InlineSource::Make(core, session, request); });
}

}  // namespace varve::server
