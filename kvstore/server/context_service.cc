#include "kvstore/server/context_service.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/server/config.h"
#include "kvstore/server/convert.h"

namespace varve::server {

using recall::ContextSnapshot;

namespace {

// Before anything of them is copied.
absl::Status CheckHotCounts(const varve::v1::ParkContextRequest& request,
                            const page::Geometry& geometry) {
  const auto entries = static_cast<uint64_t>(request.hot_size());
  const uint64_t most = uint64_t{geometry.num_layers} * geometry.num_kv_heads;
  if (entries > most) {
    return absl::InvalidArgumentError(absl::StrCat("hot has ", entries,
                                                   " entries, allowed: at most ", most,
                                                   ", one for each layer and KV head"));
  }
  uint64_t pages = 0;
  for (const varve::v1::HotPages& entry : request.hot()) {
    pages += static_cast<uint64_t>(entry.attended_size()) + entry.others_size();
  }
  if (pages <= recall::kMaxHotPages) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("hot has ", pages, " pages, allowed: ", recall::kMaxHotPages));
}

}  // namespace

absl::Status ContextService::Fill(const absl::StatusOr<ContextSnapshot>& snapshot,
                                  varve::v1::ContextInfo* reply) {
  if (!snapshot.ok()) return CountReject(core_, "contexts", snapshot.status());
  ToProto(*snapshot, reply);
  return absl::OkStatus();
}

absl::Status ContextService::Open(const varve::v1::OpenContextRequest& request,
                                  varve::v1::ContextInfo* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  recall::ContextOptions options;
  VARVE_ASSIGN_OR_RETURN(options.geometry, ParseGeometry(request.geometry()));
  VARVE_ASSIGN_OR_RETURN(options.digest_kind, ParseDigestKind(request.digest_kind()));
  return session->WhileOpen([&] {
    return Fill(
        core_.contexts.Open(session->ns(), request.context_id(), options, session->number()),
        reply);
  });
}

absl::Status ContextService::Append(const varve::v1::AppendContextRequest& request,
                                    varve::v1::ContextInfo* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  VARVE_RETURN_IF_ERROR(CountReject(core_, "batch_items",
                                    CheckBatchSize("block_hashes", request.block_hashes_size(),
                                                   core_.config.sessions().max_batch_items())));
  const std::vector<std::string> hashes(request.block_hashes().begin(),
                                        request.block_hashes().end());
  return Fill(
      core_.contexts.Append(session->ns(), request.context_id(), request.first_block(), hashes),
      reply);
}

absl::Status ContextService::Truncate(const varve::v1::TruncateContextRequest& request,
                                      varve::v1::ContextInfo* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  return Fill(core_.contexts.Truncate(session->ns(), request.context_id(), request.num_blocks()),
              reply);
}

absl::Status ContextService::Fork(const varve::v1::ForkContextRequest& request,
                                  varve::v1::ContextInfo* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  return session->WhileOpen([&] {
    return Fill(core_.contexts.Fork(session->ns(), request.context_id(), request.new_context_id(),
                                    request.num_blocks(), session->number()),
                reply);
  });
}

absl::Status ContextService::Attach(const varve::v1::ContextRef& request,
                                    varve::v1::ContextInfo* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  return session->WhileOpen([&] {
    return Fill(core_.contexts.Attach(session->ns(), request.context_id(), session->number()),
                reply);
  });
}

absl::Status ContextService::Park(const varve::v1::ParkContextRequest& request,
                                  varve::v1::ContextInfo* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  std::vector<recall::HotPages> hot;
  if (!request.hot().empty()) {
    VARVE_ASSIGN_OR_RETURN(const ContextSnapshot context,
                           core_.contexts.Get(session->ns(), request.context_id()));
    VARVE_RETURN_IF_ERROR(CheckHotCounts(request, context.options.geometry));
    hot = FromProto(request.hot());
  }
  return session->WhileOpen([&] {
    return Fill(
        core_.contexts.Park(session->ns(), request.context_id(), session->number(), std::move(hot)),
        reply);
  });
}

absl::Status ContextService::Drop(const varve::v1::ContextRef& request,
                                  varve::v1::DropContextReply*) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  return core_.contexts.Drop(session->ns(), request.context_id());
}

absl::Status ContextService::List(const varve::v1::ListContextsRequest& request,
                                  varve::v1::ListContextsReply* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  VARVE_ASSIGN_OR_RETURN(const uint32_t page_size, ParsePageSize(request.page_size()));
  if (!request.page_token().empty() && !recall::CheckContextId(request.page_token()).ok()) {
    return absl::InvalidArgumentError(
        "page_token: not one that ListContexts answered with; allowed: next_page_token of the "
        "reply before");
  }
  const auto contexts = core_.contexts.List(session->ns(), request.page_token(), page_size);
  for (const ContextSnapshot& snapshot : contexts) ToProto(snapshot, reply->add_contexts());
  if (contexts.size() == page_size) reply->set_next_page_token(contexts.back().context_id);
  return absl::OkStatus();
}

}  // namespace varve::server
