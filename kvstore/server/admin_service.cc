#include "kvstore/server/admin_service.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/base/version.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/page/digest/score.h"
#include "kvstore/server/convert.h"

namespace varve::server {
namespace {

void FillEviction(const std::string& policy, const store::EvictionCounters& counters,
                  varve::v1::TierStatus* tier) {
  tier->set_eviction(policy);
  tier->set_evicted_objects(counters.evicted_objects);
  tier->set_cut_objects(counters.cut_objects);
  tier->set_last_evicted_idle_s(counters.last_evicted_idle_seconds);
}

void FillTier(const varve::v1::HostTierConfig& config, const store::PageStoreUsage& usage,
              varve::v1::TierStatus* tier) {
  tier->set_tier(varve::v1::TIER_HOST);
  tier->set_capacity_bytes(usage.host.capacity_bytes);
  tier->set_used_bytes(usage.host.used_bytes);
  tier->set_beyond_bytes(usage.host.beyond_bytes);
  tier->set_pinned_bytes(usage.pinned_bytes);
  tier->set_objects(usage.host_objects);
  if (usage.disk.has_value()) tier->set_queued_objects(usage.disk->promoting_objects);
  FillEviction(config.eviction(), usage.eviction, tier);
  const uint64_t free = usage.host.free_bytes;
  if (free > 0) {
    tier->set_fragmentation_ratio(1 - static_cast<double>(usage.host.largest_free_bytes) /
                                          static_cast<double>(free));
  }
  tier->set_low_watermark(config.low_watermark());
  tier->set_high_watermark(config.high_watermark());
}

const char* StateName(tier::DirectoryState state) {
  switch (state) {
    case tier::DirectoryState::kOk:
      return "ok";
    case tier::DirectoryState::kFull:
      return "full";
    case tier::DirectoryState::kReadOnly:
      return "read_only";
    case tier::DirectoryState::kFailed:
      return "failed";
    case tier::DirectoryState::kDraining:
      return "draining";
    case tier::DirectoryState::kSlow:
      return "slow";
    case tier::DirectoryState::kAbsent:
      return "absent";
  }
  return "";
}

void FillDisk(const varve::v1::NvmeTierConfig& config, const store::PageStoreUsage::Disk& disk,
              varve::v1::TierStatus* tier) {
  tier->set_tier(varve::v1::TIER_NVME);
  tier->set_used_bytes(disk.log.used_bytes);
  tier->set_pinned_bytes(disk.pinned_bytes);
  tier->set_objects(disk.objects);
  FillEviction(config.eviction(), disk.eviction, tier);
  tier->set_low_watermark(config.low_watermark());
  tier->set_high_watermark(config.high_watermark());
  tier->set_durability(config.durability());
  tier->set_queued_objects(disk.queued_objects);
  tier->set_queued_bytes(disk.queued_bytes);
  tier->set_recovered_objects(disk.recovered_objects);
  tier->set_recovery_s(disk.recovery_seconds);
  uint64_t capacity = 0, live = 0;
  for (const tier::DirectoryUsage& usage : disk.log.directories) {
    varve::v1::DirectoryStatus* directory = tier->add_directories();
    directory->set_path(usage.path);
    directory->set_state(StateName(usage.state));
    directory->set_problem(usage.problem);
    directory->set_capacity_bytes(usage.capacity_bytes);
    directory->set_used_bytes(usage.used_bytes);
    directory->set_live_bytes(usage.live_bytes);
    directory->set_segments(usage.segments);
    directory->set_records(usage.records);
    capacity += usage.capacity_bytes;
    live += usage.live_bytes;
  }
  tier->set_capacity_bytes(capacity);
  tier->set_live_bytes(live);
}

void FillSession(const Session& session, absl::Time now, varve::v1::SessionStatus* out) {
  out->set_client_name(session.info().client_name);
  out->set_key_namespace(session.info().key_namespace);
  out->set_lane(session.lane());
  out->set_age_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(now - session.info().opened)));
  out->set_regions(session.num_regions());
  out->set_registered_bytes(session.registered_bytes());
  out->set_read_bytes(session.read_bytes);
  out->set_written_bytes(session.written_bytes);
  out->set_peer(session.info().peer);
}

}  // namespace

void AdminService::FillStatus(varve::v1::StoreStatus* status) const {
  const absl::Time now = absl::Now();
  const store::PageStoreUsage usage = core_.pages.Usage();
  status->set_version(absl::StrCat(base::kVersion, " (", base::kCommit, ")"));
  status->set_uptime_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(now - start_)));
  status->set_draining(core_.sessions.closed());
  FillTier(core_.config.host_tier(), usage, status->add_tiers());
  if (usage.disk.has_value()) {
    varve::v1::TierStatus* nvme = status->add_tiers();
    FillDisk(core_.config.nvme_tier(), *usage.disk, nvme);
    nvme->set_io(core_.io_name);
  }
  for (const SessionRef& session : core_.sessions.List()) {
    FillSession(*session, now, status->add_sessions());
  }
  status->set_contexts(core_.contexts.size());
  status->set_objects(usage.objects);
  status->add_plugins(absl::StrCat("transport: ", core_.transport.name()));
  status->add_plugins(absl::StrCat("eviction: ", core_.config.host_tier().eviction()));
  for (const page::DigestKindInfo& kind : page::DigestKinds()) {
    status->add_plugins(absl::StrCat("digest: ", std::string(kind.name)));
  }
  status->add_plugins(absl::StrCat("score: ", std::string(page::ScoreImpls().front().name)));
}

absl::Status AdminService::Evict(const varve::v1::EvictRequest& request,
                                 varve::v1::EvictReply* reply) {
  if (request.key_prefix().size() > page::ObjectKey::kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat("key_prefix has ", request.key_prefix().size(),
                                                   " bytes, allowed: 0..",
                                                   page::ObjectKey::kMaxBytes));
  }
  VARVE_ASSIGN_OR_RETURN(const store::EvictedMatching evicted,
                         core_.pages.EvictMatching(request.key_namespace(), request.key_prefix()));
  base::LogInfo("evicted on request: ", evicted.objects, " objects of ", evicted.bytes,
                " bytes in namespace ", base::Quoted(request.key_namespace()), ", ", evicted.kept,
                " kept");
  core_.metrics.tier(store::TierId::kHost)
      .evicted_on_request_bytes->Increment(static_cast<double>(evicted.bytes));
  reply->set_objects(evicted.objects);
  reply->set_bytes(evicted.bytes);
  reply->set_kept(evicted.kept);
  return absl::OkStatus();
}

absl::Status AdminService::ListNamespaces(const varve::v1::ListNamespacesRequest& request,
                                          varve::v1::ListNamespacesReply* reply) const {
  VARVE_ASSIGN_OR_RETURN(const uint32_t page_size, ParsePageSize(request.page_size()));
  store::NamespaceId first = 1;
  if (!request.page_token().empty() &&
      (!absl::SimpleAtoi(request.page_token(), &first) || first == 0)) {
    return absl::InvalidArgumentError(
        "page_token: not one that ListNamespaces answered with; allowed: next_page_token of the "
        "reply before");
  }
  for (std::string& name : core_.pages.ListNamespaces(first, page_size)) {
    reply->add_names(std::move(name));
  }
  if (static_cast<uint32_t>(reply->names_size()) == page_size) {
    reply->set_next_page_token(absl::StrCat(uint64_t{first} + page_size));
  }
  return absl::OkStatus();
}

}  // namespace varve::server
