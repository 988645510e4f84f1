#include "kvstore/server/object_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kvstore/base/status.h"
#include "kvstore/server/config.h"
#include "kvstore/server/convert.h"
#include "kvstore/server/get_batch.h"
#include "kvstore/server/put_batch.h"
#include "kvstore/server/transfer.h"

namespace varve::server {

absl::StatusOr<std::vector<page::ObjectKey>> ObjectService::Keys(
    const google::protobuf::RepeatedPtrField<std::string>& keys) {
  auto parsed = ParseKeys(keys, max_items());
  if (!parsed.ok()) return CountReject(core_, "batch_items", parsed.status());
  return parsed;
}

absl::Status ObjectService::Exists(const varve::v1::ExistsRequest& request,
                                   varve::v1::ExistsReply* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  VARVE_ASSIGN_OR_RETURN(const auto keys, Keys(request.keys()));
  for (const page::ObjectKey& key : keys) reply->add_exists(core_.pages.Exists(session->ns(), key));
  return absl::OkStatus();
}

absl::Status ObjectService::LongestPrefix(const varve::v1::LongestPrefixRequest& request,
                                          varve::v1::LongestPrefixReply* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  VARVE_ASSIGN_OR_RETURN(const auto keys, Keys(request.keys()));
  uint32_t present = 0;
  while (present < keys.size() && core_.pages.Exists(session->ns(), keys[present])) ++present;
  reply->set_present(present);
  return absl::OkStatus();
}

void ObjectService::Put(const varve::v1::PutRequest& request, varve::v1::PutReply* reply,
                        Answer answer) {
  absl::StatusOr<SessionRef> session = RequireSession(core_, request.session_id());
  if (!session.ok()) return std::move(answer)(session.status());
  absl::Status status =
      CountReject(core_, "batch_items", CheckBatchSize("items", request.items_size(), max_items()));
  if (!status.ok()) return std::move(answer)(std::move(status));
  const absl::StatusOr<absl::Time> deadline =
      TransferDeadline(core_, absl::Now(), request.deadline_ms());
  if (!deadline.ok()) return std::move(answer)(deadline.status());
  StartPut(core_, *std::move(session), request, reply, *deadline, std::move(answer));
}

void ObjectService::Get(const varve::v1::GetRequest& request, varve::v1::GetReply* reply,
                        Answer answer) {
  absl::StatusOr<SessionRef> session = RequireSession(core_, request.session_id());
  if (!session.ok()) return std::move(answer)(session.status());
  absl::Status status =
      CountReject(core_, "batch_items", CheckBatchSize("items", request.items_size(), max_items()));
  if (!status.ok()) return std::move(answer)(std::move(status));
  const absl::StatusOr<absl::Time> deadline =
      TransferDeadline(core_, absl::Now(), request.deadline_ms());
  if (!deadline.ok()) return std::move(answer)(deadline.status());
  StartGet(core_, *std::move(session), request, reply, *deadline, std::move(answer));
}

void ObjectService::Remove(const varve::v1::RemoveRequest& request, varve::v1::RemoveReply* reply,
                           Answer answer) {
  const absl::StatusOr<SessionRef> session = RequireSession(core_, request.session_id());
  if (!session.ok()) return std::move(answer)(session.status());
  const auto keys = Keys(request.keys());
  if (!keys.ok()) return std::move(answer)(keys.status());
  core_.pages.RemoveAll((*session)->ns(), *keys, request.force(),
                        [reply, answer = std::move(answer)](
                            absl::Status status, const std::vector<bool>& removed) mutable {
                          reply->mutable_removed()->Add(removed.begin(), removed.end());
                          std::move(answer)(std::move(status));
                        });
}

absl::Status ObjectService::Pin(const varve::v1::PinRequest& request, varve::v1::PinReply* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  VARVE_ASSIGN_OR_RETURN(const auto keys, Keys(request.keys()));
  const absl::Duration ttl =
      request.ttl_ms() == 0 ? absl::InfiniteDuration() : absl::Milliseconds(request.ttl_ms());
  return session->WhileOpen([&] {
    for (const page::ObjectKey& key : keys) {
      reply->add_done(request.unpin()
                          ? core_.pages.Unpin(session->ns(), key, session->number())
                          : core_.pages.Pin(session->ns(), key, session->number(), ttl));
    }
    return absl::OkStatus();
  });
}

absl::Status ObjectService::List(const varve::v1::ListRequest& request,
                                 varve::v1::ListReply* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  VARVE_ASSIGN_OR_RETURN(const uint32_t page_size, ParsePageSize(request.page_size()));
  if (request.key_prefix().size() > page::ObjectKey::kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat("key_prefix of ", request.key_prefix().size(),
                                                   " bytes; allowed: 0 to ",
                                                   page::ObjectKey::kMaxBytes));
  }
  std::string after;
  if (!request.page_token().empty()) {
    const auto key = page::ObjectKey::FromHex(request.page_token());
    if (!key.has_value()) {
      return absl::InvalidArgumentError(
          "page_token: not one that List answered with; allowed: next_page_token of the reply "
          "before");
    }
    after = std::string(key->bytes());
  }
  const auto rows = core_.pages.List(session->ns(), request.key_prefix(), after, page_size);
  const absl::Time now = absl::Now();
  for (const store::ObjectRow& row : rows) {
    varve::v1::ObjectInfo* object = reply->add_objects();
    object->set_key(std::string(row.key.bytes()));
    object->set_value_bytes(row.meta.bytes);
    object->set_tier(ToProto(row.tier));
    object->set_codec(row.meta.codec);
    object->set_pins(row.pins);
    ToProto(row.meta.layout, object->mutable_layout());
    object->set_crc32c(row.crc32c);
    object->add_tiers(ToProto(row.tier));
    if (row.on_disk && row.tier != store::TierId::kNvme) object->add_tiers(varve::v1::TIER_NVME);
    object->set_idle_ms(
        static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Milliseconds(row.idle))));
    object->set_prompt_tokens(row.meta.prompt_tokens);
    object->set_tokens(row.meta.tokens);
    if (row.meta.expires != absl::InfiniteFuture()) {
      object->set_ttl_ms(static_cast<uint64_t>(
          std::max<int64_t>(1, absl::ToInt64Milliseconds(row.meta.expires - now))));
    }
  }
  if (rows.size() == page_size) reply->set_next_page_token(rows.back().key.ToHex());
  return absl::OkStatus();
}

absl::Status ObjectService::Prefetch(const varve::v1::PrefetchRequest& request,
                                     varve::v1::PrefetchReply* reply) {
  VARVE_ASSIGN_OR_RETURN(const SessionRef session, RequireSession(core_, request.session_id()));
  VARVE_ASSIGN_OR_RETURN(const auto keys, Keys(request.keys()));
  for (const store::Prefetched result : core_.pages.Prefetch(session->ns(), keys)) {
    reply->add_results(static_cast<varve::v1::PrefetchResult>(result));
  }
  return absl::OkStatus();
}

}  // namespace varve::server
