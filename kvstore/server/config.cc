#include "kvstore/server/config.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kvstore/base/config_checks.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/server/embedded_store.h"
#include "kvstore/store/eviction_policy.h"
#include "kvstore/transport/port_range.h"

namespace varve::server {
namespace {

using varve::v1::StoreConfig;

// A store that evicts everything whenever it evicts keeps nothing.
constexpr double kMinWatermark = 0.01;

void CheckHostTier(const varve::v1::HostTierConfig& tier, base::ConfigChecks& checks) {
  checks.Bytes("host_tier.capacity_bytes", tier.capacity_bytes(), 1 << 20, 1ull << 46);
  checks.OneOf("host_tier.eviction", tier.eviction(), store::EvictionPolicies().NameList());
  checks.Range("host_tier.low_watermark", tier.low_watermark(), kMinWatermark, 1.0);
  checks.Range("host_tier.high_watermark", tier.high_watermark(), 0.0, 1.0);
  if (!(tier.low_watermark() <= tier.high_watermark())) {
    checks.Refuse(
        "host_tier.low_watermark", absl::StrCat(tier.low_watermark()),
        absl::StrCat("at most host_tier.high_watermark, which is ", tier.high_watermark()));
  }
}

void CheckTransport(const varve::v1::TransportConfig& transport, base::ConfigChecks& checks) {
  checks.SomeOf("transport.lanes", {transport.lanes().begin(), transport.lanes().end()},
                {"shm", "tcp", "rdma"});
  checks.Millis("transport.transfer_deadline_ms", transport.transfer_deadline_ms(), 1,
                absl::ToInt64Milliseconds(kMaxTransferDeadline));
  if (!transport::ParsePortRange(transport.tcp_port_range()).ok()) {
    checks.Refuse("transport.tcp_port_range", base::Quoted(transport.tcp_port_range()),
                  transport::kPortRangeForm);
  }
  checks.Bytes("transport.segment_bytes", transport.segment_bytes(), 4 << 10, 64 << 20);
}

}  // namespace

varve::v1::StoreConfig DefaultStoreConfig() {
  StoreConfig config;
  config.set_listen("127.0.0.1:7411");
  config.set_http_listen("127.0.0.1:7412");
  config.set_log_level("info");
  config.set_drain_ms(20000);

  auto* tier = config.mutable_host_tier();
  tier->set_capacity_bytes(4ull << 30);
  tier->set_eviction("lru");
  tier->set_low_watermark(0.85);
  tier->set_high_watermark(0.95);
  tier->set_verify_reads(true);
  tier->set_huge_pages(true);

  auto* transport = config.mutable_transport();
  for (const char* lane : {"rdma", "shm", "tcp"}) transport->add_lanes(lane);
  transport->set_transfer_deadline_ms(10000);
  transport->set_segment_bytes(1 << 20);

  auto* sessions = config.mutable_sessions();
  sessions->set_max_sessions(4096);
  sessions->set_max_batch_items(16384);
  sessions->set_max_object_bytes(64 << 20);
  sessions->set_max_regions(1024);
  sessions->set_inline_idle_ms(30000);
  sessions->set_max_connecting(256);
  sessions->set_max_registered_bytes(64ull << 30);

  auto* recall = config.mutable_recall();
  recall->set_threads(2);
  recall->set_max_digest_bytes(4ull << 30);
  recall->set_max_contexts(10000);
  recall->set_parked_ttl_ms(3600 * 1000);
  recall->set_max_blocks(8 << 20);
  return config;
}

absl::Status ValidateStoreConfig(const StoreConfig& config) {
  base::ConfigChecks checks;
  checks.Address("listen", config.listen());
  checks.HttpAddress("http_listen", config.http_listen());
  checks.LogLevel("log_level", config.log_level());
  CheckHostTier(config.host_tier(), checks);
  CheckTransport(config.transport(), checks);
  const auto& sessions = config.sessions();
  checks.Range("sessions.max_sessions", sessions.max_sessions(), 1u, 1000000u);
  checks.Range("sessions.max_batch_items", sessions.max_batch_items(), 1u, 1u << 20);
  checks.Bytes("sessions.max_object_bytes", sessions.max_object_bytes(), 1, 4ull << 30);
  if (sessions.max_object_bytes() > config.host_tier().capacity_bytes()) {
    checks.Refuse("sessions.max_object_bytes", base::FormatBytes(sessions.max_object_bytes()),
                  absl::StrCat("at most host_tier.capacity_bytes, which is ",
                               base::FormatBytes(config.host_tier().capacity_bytes())));
  }
  checks.Range("sessions.max_regions", sessions.max_regions(), 1u, 1u << 20);
  checks.Millis("sessions.inline_idle_ms", sessions.inline_idle_ms(), 1, 3600 * 1000);
  checks.Range("sessions.max_connecting", sessions.max_connecting(), 1u, 1000000u);
  // What a million sessions register fits into 64 bits.
  checks.Bytes("sessions.max_registered_bytes", sessions.max_registered_bytes(), 1 << 20,
               1ull << 44);
  checks.Range("recall.threads", config.recall().threads(), 1u, 1024u);
  checks.Bytes("recall.max_digest_bytes", config.recall().max_digest_bytes(), 1 << 10, 1ull << 46);
  checks.Range("recall.max_contexts", config.recall().max_contexts(), 1u, 10000000u);
  checks.Millis("recall.parked_ttl_ms", config.recall().parked_ttl_ms(), 0,
                365ll * 24 * 3600 * 1000);
  checks.Range<uint64_t>("recall.max_blocks", config.recall().max_blocks(), 1, 1ull << 40);
  checks.Millis("drain_ms", config.drain_ms(), 0, 3600 * 1000);
  return checks.Result();
}

}  // namespace varve::server
