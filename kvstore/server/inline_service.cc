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
    room_deadline_ = absl::Now() + IdleLimit(core());
    TakeLater(std::move(request));
  }

  void TakeLater(std::shared_ptr<PutInlineRequest> request) {
    core().put_pool.Run(
        [this, self = shared_from_this(), request = std::move(request)] { Take(request); });
  }

  void Take(const std::shared_ptr<PutInlineRequest>& message) {
    const PutInlineRequest& request = *message;
    if (!request.session_id().empty()) session_id_ = request.session_id();
    // Looked up each time: a stream must not keep the endpoint of an ended session alive.
    const absl::StatusOr<SessionRef> session = RequireSession(core(), session_id_);
    if (!session.ok()) {
      handle_.reset();
      End(session.status());
      return Respond(request, nullptr);
    }
    // It may end while the client is not sending: what is reserved must not outlive it.
    core().streams.Bind(stream_id(), (*session)->number());
    if ((*session)->ended()) End(SessionEnded());
    if (!open_) {
      BeginObject(**session, request);
      if (absl::IsUnavailable(status_) && absl::Now() < room_deadline_) {
        // Objects are on their way to disk, and there will be room.
        open_ = false;
        return core().pages.AwaitRoom(
            request.total_bytes(), room_deadline_,
            [this, self = shared_from_this(), message] { TakeLater(message); });
      }
    } else if (status_.ok() && !request.key().empty() && request.key() != key_) {
      status_ = absl::InvalidArgumentError(
          "key differs from that of the object's first message; allowed: the same, or none, until "
          "the message with last");
    }
    if (status_.ok()) status_ = Append(request.data());
    if (!status_.ok()) handle_.reset();
    if (request.last()) return EndObject(message);
    if (handle_ != nullptr) {
      core().streams.Expect(stream_id(), absl::Now() + IdleLimit(core()));
    }
    Respond(request, nullptr);
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
    ns_ = session.ns();
    status_ = Reserve(session, request);
  }

  absl::Status Reserve(const Session& session, const PutInlineRequest& request) {
    VARVE_ASSIGN_OR_RETURN(const page::ObjectKey key, ParseKey(request.key()));
    VARVE_ASSIGN_OR_RETURN(const store::ObjectMeta meta,
                           ParseMeta(core(), {.bytes = request.total_bytes(),
                                              .layout = request.layout(),
                                              .codec = request.codec(),
                                              .prompt_tokens = request.prompt_tokens(),
                                              .tokens = request.tokens(),
                                              .ttl_ms = request.ttl_ms()}));
    VARVE_ASSIGN_OR_RETURN(const std::string parent, ParseParent(key, request.parent()));
    VARVE_ASSIGN_OR_RETURN(handle_, core().pages.Reserve(session.ns(), key, meta, parent));
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

  void EndObject(const std::shared_ptr<PutInlineRequest>& message) {
    open_ = false;
    if (status_.ok() && received_ < handle_->memory().size()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(
          "last after ", received_, " bytes of total_bytes ", handle_->memory().size()));
    }
    std::unique_ptr<store::PutHandle> handle = std::move(handle_);
    if (!status_.ok()) {
      handle.reset();
      return Settle(message, status_);
    }
    handle->Commit(crc32c_, [this, self = shared_from_this(), message](const absl::Status& status) {
      Settle(message, status);
    });
  }

  void Settle(const std::shared_ptr<PutInlineRequest>& message, const absl::Status& status) {
    AwaitSettled(core(), ns_, key_, status,
                 [this, self = shared_from_this(), message](const absl::Status& settled) {
                   auto result = std::make_unique<PutItemResult>();
                   result->set_key(key_);
                   result->set_result(ToPutResult(settled));
                   if (!settled.ok()) result->set_message(std::string(settled.message()));
                   core().metrics.CountPut(result->result());
                   Respond(*message, std::move(result));
                 });
  }

  std::string session_id_;
  absl::Time room_deadline_;  // of the message being taken
  // Of the object whose messages are coming in. After an error its other messages are read and
  // dropped.
  bool open_ = false;
  uint64_t received_ = 0;
  absl::Status status_;
  store::NamespaceId ns_ = 0;
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
        [source = InlineSource(core, session.ns(), request)](
            GetInlineReply* reply, SendCall<GetInlineReply>& call) mutable {
          return source.Next(reply, call);
        });
  }

 private:
  using Pulled = SendCall<GetInlineReply>::Pulled;

  InlineSource(Core& core, store::NamespaceId ns, const GetInlineRequest& request)
      : core_(&core), ns_(ns), request_(&request) {}

  // Is asked again when the client has taken the message before.
  absl::StatusOr<Pulled> Next(GetInlineReply* reply, SendCall<GetInlineReply>& call) {
    if (sent_.has_value()) CountHit(*core_, sent_->tier, sent_->bytes);
    sent_.reset();
    if (item_ >= request_->items_size()) return Pulled::kEnd;
    if (handle_ == nullptr) {
      Acquire(reply->mutable_result());
      if (handle_ != nullptr && !handle_->loaded()) {
        // The source lives, and is not called, until it resumes.
        handle_->Load(range_, absl::Now() + IdleLimit(*core_),
                      [this, resume = call.Resume()](absl::Status status) mutable {
                        load_ = std::move(status);
                        std::move(resume)();
                      });
        return Pulled::kLater;
      }
    }
    if (handle_ != nullptr && extents_.empty()) BeginSending(reply->mutable_result());
    reply->set_item(item_);
    if (handle_ == nullptr) {
      reply->set_last(true);
      ++item_;
      return Pulled::kMessage;
    }
    reply->clear_result();
    FillChunk(reply->mutable_data());
    if (extent_ < extents_.size()) return Pulled::kMessage;
    SetHit(*handle_, item_bytes_, reply->mutable_result());
    sent_ = Sent{handle_->tier(), item_bytes_};
    reply->set_last(true);
    handle_.reset();
    ++item_;
    return Pulled::kMessage;
  }

  // A handle, or the result says why there is none.
  void Acquire(varve::v1::GetItemResult* result) {
    store::Miss miss;
    const absl::Status status = Acquire(&miss);
    extents_.clear();
    if (!status.ok()) {
      handle_.reset();
      result->set_message(std::string(status.message()));
    } else if (handle_ == nullptr) {
      SetMiss(*core_, miss.reason, result);
    }
  }

  absl::Status Acquire(store::Miss* miss) {
    const varve::v1::GetInlineItem& item = request_->items(item_);
    VARVE_ASSIGN_OR_RETURN(const page::ObjectKey key, ParseKey(item.key()));
    VARVE_ASSIGN_OR_RETURN(range_, ParseRange(item.range()));
    handle_ = core_->pages.Acquire(ns_, key, miss);
    if (handle_ == nullptr) return absl::OkStatus();
    VARVE_ASSIGN_OR_RETURN(item_bytes_, CheckRange(handle_->meta(), range_));
    return absl::OkStatus();
  }

  // The bytes are in memory, or the disk has failed: then the handle goes.
  void BeginSending(varve::v1::GetItemResult* result) {
    const absl::Status load = std::exchange(load_, absl::OkStatus());
    if (!load.ok()) {
      handle_.reset();
      SetMiss(*core_, store::MissReason::kFailed, result);
      result->set_message(absl::StrCat("disk: ", load.message()));
    } else if (core_->config.host_tier().verify_reads() && !handle_->Verify(range_).ok()) {
      handle_.reset();
      SetMiss(*core_, store::MissReason::kCorrupt, result);
    } else {
      // The client may take its time.
      handle_->Unstage();
      ForEachPiece(handle_->meta(), range_,
                   [this](page::Extent extent) { extents_.push_back(extent); });
      extent_ = 0;
    }
  }

  void FillChunk(std::string* data) {
    while (extent_ < extents_.size() && data->size() < kMaxInlineChunkBytes) {
      page::Extent& extent = extents_[extent_];
      const size_t n = std::min(extent.bytes, kMaxInlineChunkBytes - data->size());
      const std::span<const std::byte> bytes = handle_->Bytes({extent.offset, n});
      data->append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      extent.offset += n;
      extent.bytes -= n;
      if (extent.bytes == 0) ++extent_;
    }
  }

  Core* core_;
  store::NamespaceId ns_;
  const GetInlineRequest* request_;  // owned by gRPC, as long as the call
  int item_ = 0;
  page::ObjectRange range_;                   // of item_
  std::unique_ptr<store::GetHandle> handle_;  // of item_, while it is being sent
  absl::Status load_;
  std::vector<page::Extent> extents_;  // empty until it is being sent, then what is left of it
  size_t extent_ = 0;
  uint64_t item_bytes_ = 0;
  struct Sent {
    store::TierId tier;
    uint64_t bytes;
  };
  std::optional<Sent> sent_;  // of an object whose last chunk is on its way
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
