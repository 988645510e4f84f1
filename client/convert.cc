#include "client/convert.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace varve::client {
namespace {

Tier FromProto(v1::Tier tier) {
  switch (tier) {
    case v1::TIER_GPU:
      return Tier::kGpu;
    case v1::TIER_HOST:
      return Tier::kHost;
    case v1::TIER_NVME:
      return Tier::kNvme;
    default:
      return Tier::kNone;
  }
}

MissReason FromProto(v1::MissReason reason) {
  switch (reason) {
    case v1::MISS_REASON_UNSPECIFIED:
      return MissReason::kNone;
    case v1::MISS_REASON_NEVER_STORED:
      return MissReason::kNeverStored;
    case v1::MISS_REASON_EVICTED:
      return MissReason::kEvicted;
    case v1::MISS_REASON_EXPIRED:
      return MissReason::kExpired;
    case v1::MISS_REASON_INCOMPATIBLE:
      return MissReason::kIncompatible;
    case v1::MISS_REASON_CORRUPT:
      return MissReason::kCorrupt;
    default:
      return MissReason::kFailed;
  }
}

PutOutcome FromProto(v1::PutResult result) {
  switch (result) {
    case v1::PUT_RESULT_STORED:
      return PutOutcome::kStored;
    case v1::PUT_RESULT_EXISTS:
      return PutOutcome::kExists;
    case v1::PUT_RESULT_NO_SPACE:
      return PutOutcome::kNoSpace;
    case v1::PUT_RESULT_CORRUPT:
      return PutOutcome::kCorrupt;
    case v1::PUT_RESULT_INVALID:
      return PutOutcome::kInvalid;
    default:
      return PutOutcome::kFailed;
  }
}

page::ObjectLayout FromProto(const v1::ObjectLayout& layout) {
  return {.num_kv_heads = layout.num_kv_heads(), .part_bytes = layout.part_bytes()};
}

RecallHeadResult FromProto(const v1::HeadRecallResult& head) {
  RecallHeadResult result;
  result.selected.assign(head.selected().begin(), head.selected().end());
  result.scores.assign(head.scores().begin(), head.scores().end());
  result.log_dropped_bound.assign(head.log_dropped_bound().begin(), head.log_dropped_bound().end());
  result.log_dropped_estimate.assign(head.log_dropped_estimate().begin(),
                                     head.log_dropped_estimate().end());
  result.resident_scores.assign(head.resident_scores().begin(), head.resident_scores().end());
  result.missing_scores.assign(head.missing_scores().begin(), head.missing_scores().end());
  result.recalled.reserve(head.recalled_size());
  for (const v1::RecalledPage& page : head.recalled()) {
    result.recalled.push_back({.page = page.page(),
                               .slot = page.slot(),
                               .done = page.done(),
                               .reason = FromProto(page.miss_reason()),
                               .message = page.message()});
  }
  return result;
}

DirectoryInfo FromProto(const v1::DirectoryStatus& directory) {
  return {.path = directory.path(),
          .state = directory.state(),
          .problem = directory.problem(),
          .capacity_bytes = directory.capacity_bytes(),
          .used_bytes = directory.used_bytes(),
          .live_bytes = directory.live_bytes(),
          .segments = directory.segments(),
          .records = directory.records()};
}

TierInfo FromProto(const v1::TierStatus& tier) {
  TierInfo info{.tier = FromProto(tier.tier()),
                .capacity_bytes = tier.capacity_bytes(),
                .used_bytes = tier.used_bytes(),
                .pinned_bytes = tier.pinned_bytes(),
                .objects = tier.objects(),
                .fragmentation_ratio = tier.fragmentation_ratio(),
                .low_watermark = tier.low_watermark(),
                .high_watermark = tier.high_watermark(),
                .eviction = tier.eviction(),
                .evicted_objects = tier.evicted_objects(),
                .cut_objects = tier.cut_objects(),
                .last_evicted_idle = absl::Seconds(tier.last_evicted_idle_s()),
                .queued_objects = tier.queued_objects(),
                .queued_bytes = tier.queued_bytes(),
                .beyond_bytes = tier.beyond_bytes(),
                .durability = tier.durability(),
                .io = tier.io(),
                .live_bytes = tier.live_bytes(),
                .recovered_objects = tier.recovered_objects(),
                .recovery_time = absl::Seconds(tier.recovery_s())};
  for (const v1::DirectoryStatus& directory : tier.directories()) {
    info.directories.push_back(FromProto(directory));
  }
  return info;
}

SessionInfo FromProto(const v1::SessionStatus& session) {
  return {.client_name = session.client_name(),
          .key_namespace = session.key_namespace(),
          .lane = session.lane(),
          .peer = session.peer(),
          .age = absl::Milliseconds(session.age_ms()),
          .regions = session.regions(),
          .registered_bytes = session.registered_bytes(),
          .read_bytes = session.read_bytes(),
          .written_bytes = session.written_bytes()};
}

// The enumeration is narrower than the wire's: what it has not stays wrong.
page::DType FromProto(v1::DType dtype) {
  return v1::DType_IsValid(dtype) ? static_cast<page::DType>(dtype) : page::DType{};
}

page::RopeParameters FromProto(const v1::RopeParameters& rope) {
  return {.theta = rope.theta(),
          .rotary_dim = rope.rotary_dim(),
          .pairing = static_cast<page::RopePairing>(rope.pairing()),
          .scaling = static_cast<page::RopeScaling>(rope.scaling()),
          .factor = rope.factor(),
          .low_freq_factor = rope.low_freq_factor(),
          .high_freq_factor = rope.high_freq_factor(),
          .original_max_position = rope.original_max_position(),
          .arithmetic = {.angles = static_cast<page::RopeAngles>(rope.angles()),
                         .table = FromProto(rope.table()),
                         .rotation = static_cast<page::RopeRotation>(rope.rotation())}};
}

v1::RopeParameters ToProto(const page::RopeParameters& rope) {
  v1::RopeParameters proto;
  proto.set_theta(rope.theta);
  proto.set_rotary_dim(rope.rotary_dim);
  proto.set_pairing(static_cast<v1::RopePairing>(rope.pairing));
  proto.set_scaling(static_cast<v1::RopeScaling>(rope.scaling));
  proto.set_factor(rope.factor);
  proto.set_low_freq_factor(rope.low_freq_factor);
  proto.set_high_freq_factor(rope.high_freq_factor);
  proto.set_original_max_position(rope.original_max_position);
  proto.set_angles(static_cast<v1::RopeAngles>(rope.arithmetic.angles));
  proto.set_table(static_cast<v1::DType>(rope.arithmetic.table));
  proto.set_rotation(static_cast<v1::RopeRotation>(rope.arithmetic.rotation));
  return proto;
}

}  // namespace

page::Geometry FromProto(const v1::Geometry& g) {
  page::Geometry geometry{.num_layers = g.num_layers(),
                          .num_kv_heads = g.num_kv_heads(),
                          .num_query_heads = g.num_query_heads(),
                          .head_dim = g.head_dim(),
                          .page_tokens = g.page_tokens(),
                          .dtype = FromProto(g.dtype())};
  if (g.has_rope()) geometry.rope = FromProto(g.rope());
  return geometry;
}

v1::Geometry ToProto(const page::Geometry& geometry) {
  v1::Geometry proto;
  proto.set_num_layers(geometry.num_layers);
  proto.set_num_kv_heads(geometry.num_kv_heads);
  proto.set_num_query_heads(geometry.num_query_heads);
  proto.set_head_dim(geometry.head_dim);
  proto.set_page_tokens(geometry.page_tokens);
  proto.set_dtype(static_cast<v1::DType>(geometry.dtype));
  if (geometry.rope.has_value()) *proto.mutable_rope() = ToProto(*geometry.rope);
  return proto;
}

v1::ObjectLayout ToProto(const page::ObjectLayout& layout) {
  v1::ObjectLayout proto;
  proto.set_num_kv_heads(layout.num_kv_heads);
  proto.set_part_bytes(layout.part_bytes);
  return proto;
}

v1::ObjectRange ToProto(const page::ObjectRange& range) {
  v1::ObjectRange proto;
  proto.set_part(static_cast<v1::Part>(range.part));
  proto.set_head_begin(range.head_begin);
  proto.set_head_count(range.head_count);
  return proto;
}

v1::DigestKind ToProto(page::DigestKind kind) { return static_cast<v1::DigestKind>(kind); }
v1::Tier ToProto(Tier tier) { return static_cast<v1::Tier>(tier); }
v1::ScoreMerge ToProto(page::ScoreMerge merge) { return static_cast<v1::ScoreMerge>(merge); }
v1::HotPages ToProto(const HotPages& hot) {
  v1::HotPages wire;
  wire.set_layer(hot.layer);
  wire.set_kv_head(hot.kv_head);
  wire.mutable_attended()->Add(hot.attended.begin(), hot.attended.end());
  wire.mutable_others()->Add(hot.others.begin(), hot.others.end());
  return wire;
}

uint32_t TtlMilliseconds(absl::Duration ttl) {
  if (ttl == absl::InfiniteDuration()) return 0;
  constexpr int64_t kMost = std::numeric_limits<uint32_t>::max();
  return static_cast<uint32_t>(std::clamp<int64_t>(absl::ToInt64Milliseconds(ttl), 1, kMost));
}

PutResult FromProto(const v1::PutItemResult& result) {
  return {.outcome = FromProto(result.result()), .message = result.message()};
}

GetResult FromProto(const v1::GetItemResult& result) {
  return {.hit = result.hit(),
          .tier = FromProto(result.tier()),
          .bytes = result.value_bytes(),
          .reason = FromProto(result.miss_reason()),
          .message = result.message()};
}

PrefetchOutcome FromProto(v1::PrefetchResult result) {
  switch (result) {
    case v1::PREFETCH_RESULT_IN_MEMORY:
      return PrefetchOutcome::kInMemory;
    case v1::PREFETCH_RESULT_BEGUN:
      return PrefetchOutcome::kBegun;
    case v1::PREFETCH_RESULT_BUSY:
      return PrefetchOutcome::kBusy;
    default:
      return PrefetchOutcome::kNotStored;
  }
}

ObjectInfo FromProto(const v1::ObjectInfo& info) {
  std::vector<Tier> tiers;
  for (const int tier : info.tiers()) tiers.push_back(FromProto(static_cast<v1::Tier>(tier)));
  return {.key = page::ObjectKey::FromBytes(info.key()).value_or(page::ObjectKey()),
          .bytes = info.value_bytes(),
          .tier = FromProto(info.tier()),
          .codec = info.codec(),
          .pins = info.pins(),
          .layout = FromProto(info.layout()),
          .crc32c = info.crc32c(),
          .tiers = std::move(tiers),
          .idle = absl::Milliseconds(info.idle_ms()),
          .prompt_tokens = info.prompt_tokens(),
          .tokens = info.tokens(),
          .ttl = info.ttl_ms() == 0 ? absl::InfiniteDuration() : absl::Milliseconds(info.ttl_ms())};
}

ContextInfo FromProto(const v1::ContextInfo& info) {
  std::vector<HotPages> hot;
  for (const v1::HotPages& entry : info.hot()) {
    hot.push_back({entry.layer(),
                   entry.kv_head(),
                   {entry.attended().begin(), entry.attended().end()},
                   {entry.others().begin(), entry.others().end()}});
  }
  return {.context_id = info.context_id(),
          .attached = info.state() == v1::CONTEXT_STATE_ATTACHED,
          .geometry = FromProto(info.geometry()),
          .digest_kind = static_cast<page::DigestKind>(info.digest_kind()),
          .num_blocks = info.num_blocks(),
          .epoch = info.epoch(),
          .digest_bytes = info.digest_bytes(),
          .digest_blocks = {info.digest_blocks().begin(), info.digest_blocks().end()},
          .block_hashes = {info.block_hashes().begin(), info.block_hashes().end()},
          .attached_sessions = info.attached_sessions(),
          .hot = std::move(hot)};
}

RecallResult FromProto(const v1::RecallReply& reply) {
  RecallResult result;
  result.layers.reserve(reply.layers_size());
  for (const v1::LayerRecallResult& layer : reply.layers()) {
    std::vector<RecallHeadResult>& heads = result.layers.emplace_back();
    for (const v1::HeadRecallResult& head : layer.heads()) heads.push_back(FromProto(head));
  }
  const v1::RecallTimings& timings = reply.timings();
  result.timings = {.queue_us = static_cast<double>(timings.queue_us()),
                    .score_us = static_cast<double>(timings.score_us()),
                    .select_us = static_cast<double>(timings.select_us()),
                    .rerank_us = static_cast<double>(timings.rerank_us()),
                    .locate_us = static_cast<double>(timings.locate_us()),
                    .transfer_us = static_cast<double>(timings.transfer_us()),
                    .total_us = static_cast<double>(timings.total_us())};
  return result;
}

StoreStatus FromProto(const v1::StoreStatus& status) {
  StoreStatus result;
  result.version = status.version();
  result.uptime = absl::Milliseconds(status.uptime_ms());
  result.draining = status.draining();
  for (const v1::TierStatus& tier : status.tiers()) result.tiers.push_back(FromProto(tier));
  for (const v1::SessionStatus& session : status.sessions()) {
    result.sessions.push_back(FromProto(session));
  }
  result.contexts = status.contexts();
  result.objects = status.objects();
  result.plugins.assign(status.plugins().begin(), status.plugins().end());
  return result;
}

}  // namespace varve::client
