#include "kvstore/server/session_stream.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/base/version.h"
#include "kvstore/server/config.h"

namespace varve::server {
namespace {

using varve::v1::SessionReply;
using varve::v1::SessionRequest;

// Of the time that a client waits for its session; the rest is for the answer to reach it.
constexpr double kConnectShare = 0.75;

absl::Status CheckOpenSession(const varve::v1::OpenSession& open) {
  if (open.client_name().size() > kMaxClientNameBytes) {
    return absl::InvalidArgumentError(absl::StrCat("client_name of ", open.client_name().size(),
                                                   " bytes; allowed: up to ", kMaxClientNameBytes));
  }
  if (open.key_namespace().size() > kMaxNamespaceBytes) {
    return absl::InvalidArgumentError(absl::StrCat("key_namespace of ", open.key_namespace().size(),
                                                   " bytes; allowed: up to ", kMaxNamespaceBytes));
  }
  return absl::OkStatus();
}

class SessionStream final : public StreamCall<SessionRequest, SessionReply> {
 public:
  // One request at a time: answers come in order.
  SessionStream(Core& core, std::string peer)
      : StreamCall(core, "Session", 1), core_(core), peer_(std::move(peer)) {}

 private:
  // Connecting and importing take milliseconds: not on a gRPC thread. Connecting takes seconds when
  // the client does not answer: not on a thread that others need.
  void OnRequest(std::unique_ptr<SessionRequest> request) override {
    if (!request->has_open()) return Handle(core_.control_pool, std::move(request), [] {});
    const uint32_t max_connecting = core_.config.sessions().max_connecting();
    if (core_.connecting.fetch_add(1) >= max_connecting) {
      core_.connecting.fetch_sub(1);
      End(CountRefusal(absl::ResourceExhaustedError(
          absl::StrCat(max_connecting,
                       " sessions are being opened; sessions.max_connecting allows no more: try "
                       "again"))));
      return Respond(*request, nullptr);
    }
    Handle(core_.connect_pool, std::move(request), [this] { core_.connecting.fetch_sub(1); });
  }

  template <typename Then>
  void Handle(base::Executor& pool, std::unique_ptr<SessionRequest> request, Then then) {
    pool.Run([this, self = shared_from_this(), request = std::move(request), then,
              arrived = absl::Now()] {
      auto reply = Handle(*request, arrived);
      then();
      Respond(*request, std::move(reply));
    });
  }

  void OnClosed() override {
    if (session_ == nullptr) return;
    core_.control_pool.Run([&core = core_, session = std::move(session_)] {
      core.sessions.End(session, EndMode::kAbrupt, absl::OkStatus());
    });
  }

  std::unique_ptr<SessionReply> Handle(const SessionRequest& request, absl::Time arrived) {
    switch (request.request_case()) {
      case SessionRequest::kOpen:
        return Open(request.open(), arrived);
      case SessionRequest::kRegisterRegion:
        return Register(request.register_region());
      case SessionRequest::kUnregisterRegion:
        return Unregister(request.unregister_region());
      case SessionRequest::REQUEST_NOT_SET:
        break;
    }
    End(absl::InvalidArgumentError(
        "empty SessionRequest; allowed: open, register_region, unregister_region"));
    return nullptr;
  }

  std::unique_ptr<SessionReply> Open(const varve::v1::OpenSession& open, absl::Time arrived) {
    absl::Status status = session_ == nullptr
                              ? TryOpen(open, arrived)
                              : absl::FailedPreconditionError("this stream has an open session");
    if (!status.ok()) {
      End(status);
      return nullptr;
    }
    auto reply = std::make_unique<SessionReply>();
    varve::v1::SessionOpened* opened = reply->mutable_opened();
    opened->set_session_id(session_->id());
    opened->set_lane(session_->lane());
    opened->set_store_version(base::kVersion);
    const auto& limits = core_.config.sessions();
    opened->mutable_limits()->set_max_batch_items(limits.max_batch_items());
    opened->mutable_limits()->set_max_object_bytes(limits.max_object_bytes());
    opened->mutable_limits()->set_max_inline_chunk_bytes(kMaxInlineChunkBytes);
    opened->mutable_limits()->set_max_regions(limits.max_regions());
    opened->mutable_limits()->set_max_registered_bytes(limits.max_registered_bytes());
    return reply;
  }

  absl::Status TryOpen(const varve::v1::OpenSession& open, absl::Time arrived) {
    VARVE_RETURN_IF_ERROR(CheckOpenSession(open));
    // Before connecting: a store that is full or draining must not spend milliseconds on every
    // attempt.
    VARVE_RETURN_IF_ERROR(CountRefusal(core_.sessions.CheckOpen()));
    std::unique_ptr<transport::Endpoint> endpoint;
    if (!open.transport_address().empty()) {
      const absl::Duration left =
          open.timeout_ms() == 0
              ? absl::InfiniteDuration()
              : arrived + absl::Milliseconds(open.timeout_ms()) * kConnectShare - absl::Now();
      if (left <= absl::ZeroDuration()) {
        return absl::UnavailableError("other clients that do not answer took the time to connect");
      }
      absl::StatusOr<std::unique_ptr<transport::Endpoint>> connected =
          core_.transport.Connect(open.transport_address(), left);
      if (!connected.ok()) return base::Annotate(connected.status(), "transport_address");
      endpoint = *std::move(connected);
    }
    const absl::StatusOr<store::NamespaceId> ns = core_.pages.InternNamespace(open.key_namespace());
    VARVE_RETURN_IF_ERROR(CountRefusal(ns.status()));
    SessionInfo info{open.client_name(), open.key_namespace(), peer_, *ns, absl::Now()};
    absl::StatusOr<SessionRef> session = core_.sessions.Open(std::move(info), std::move(endpoint));
    VARVE_RETURN_IF_ERROR(CountRefusal(session.status()));
    session_ = *std::move(session);
    session_->SetStreamCloser([weak = weak_from_this()](const absl::Status& reason) {
      if (auto self = weak.lock()) self->End(reason);
    });
    // A drain between Open and SetStreamCloser found no closer to call.
    if (session_->ended()) return absl::UnavailableError("the store is draining");
    base::LogDebug("session ", session_->number(), " (", open.client_name(), ") opened over ",
                   session_->lane());
    return absl::OkStatus();
  }

  absl::Status CountRefusal(const absl::Status& status) {
    if (absl::IsResourceExhausted(status)) core_.metrics.Reject("sessions");
    if (absl::IsFailedPrecondition(status)) core_.metrics.Reject("draining");
    return status;
  }

  std::unique_ptr<SessionReply> Register(const varve::v1::RegisterRegion& region) {
    if (session_ == nullptr) return RefuseFirst("register_region");
    auto reply = std::make_unique<SessionReply>();
    reply->mutable_region()->set_region_id(region.region_id());
    const absl::StatusOr<uint64_t> bytes =
        session_->AddRegion(region.region_id(), region.descriptor_bytes());
    if (bytes.ok()) reply->mutable_region()->set_region_bytes(*bytes);
    SetError(CountReject(core_, "regions", bytes.status()), reply->mutable_region());
    return reply;
  }

  std::unique_ptr<SessionReply> Unregister(const varve::v1::UnregisterRegion& region) {
    if (session_ == nullptr) return RefuseFirst("unregister_region");
    auto reply = std::make_unique<SessionReply>();
    reply->mutable_region()->set_region_id(region.region_id());
    SetError(session_->RemoveRegion(region.region_id()), reply->mutable_region());
    return reply;
  }

  static void SetError(const absl::Status& status, varve::v1::RegionReply* reply) {
    if (status.ok()) return;
    reply->set_error(std::string(status.message()));
    reply->set_error_code(static_cast<uint32_t>(status.code()));
  }

  std::unique_ptr<SessionReply> RefuseFirst(const char* what) {
    End(absl::InvalidArgumentError(
        absl::StrCat(what, " before open; allowed: open as the first message of the stream")));
    return nullptr;
  }

  Core& core_;
  const std::string peer_;
  SessionRef session_;  // used by one request at a time, then by OnClosed
};

}  // namespace

SessionReactor* StartSessionStream(Core& core, const std::string& peer) {
  return std::make_shared<SessionStream>(core, peer)->Begin();
}

}  // namespace varve::server
