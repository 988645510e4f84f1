#include "kvstore/server/config.h"

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "kvstore/base/config_checks.h"
#include "kvstore/base/path.h"
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

void CheckWatermarks(const std::string& tier, double low, double high, base::ConfigChecks& checks) {
  checks.Range(tier + ".low_watermark", low, kMinWatermark, 1.0);
  checks.Range(tier + ".high_watermark", high, 0.0, 1.0);
  if (!(low <= high)) {
    checks.Refuse(tier + ".low_watermark", absl::StrCat(low),
                  absl::StrCat("at most ", tier, ".high_watermark, which is ", high));
  }
}

void CheckHostTier(const varve::v1::HostTierConfig& tier, base::ConfigChecks& checks) {
  checks.Bytes("host_tier.capacity_bytes", tier.capacity_bytes(), 1 << 20, 1ull << 46);
  checks.OneOf("host_tier.eviction", tier.eviction(), store::EvictionPolicies().NameList());
  CheckWatermarks("host_tier", tier.low_watermark(), tier.high_watermark(), checks);
}

void CheckNvmeTier(const StoreConfig& config, base::ConfigChecks& checks) {
  const varve::v1::NvmeTierConfig& tier = config.nvme_tier();
  checks.OneOf("nvme_tier.durability", tier.durability(), {"memory", "nvme_async", "nvme_sync"});
  checks.OneOf("nvme_tier.io", tier.io(), {"auto", "io_uring", "threads"});
  checks.OneOf("nvme_tier.eviction", tier.eviction(), store::EvictionPolicies().NameList());
  checks.Range("nvme_tier.queue_depth", tier.queue_depth(), 1u, 4096u);
  checks.Range("nvme_tier.promote_uses", tier.promote_uses(), 0u, 15u);
  checks.Range("nvme_tier.notes_share", tier.notes_share(), 0.01, 0.9);
  CheckWatermarks("nvme_tier", tier.low_watermark(), tier.high_watermark(), checks);
  const uint64_t object = config.sessions().max_object_bytes();
  checks.Bytes("nvme_tier.segment_bytes", tier.segment_bytes(), 1 << 20, 4ull << 30);
  std::set<std::string> paths;
  for (const std::string& text : tier.directories()) {
    const absl::StatusOr<tier::LogDirectory> directory = ParseDirectory(text);
    if (!directory.ok()) {
      checks.Refuse("nvme_tier.directories", base::Quoted(text),
                    "PATH=SIZE with a size such as 800GiB");
      continue;
    }
    if (!directory->path.starts_with('/')) {
      checks.Refuse("nvme_tier.directories", base::Quoted(text),
                    "an absolute path: the next start may be from elsewhere");
    }
    if (!paths.insert(directory->path).second) {
      checks.Refuse("nvme_tier.directories", base::Quoted(text), "each path once");
    }
    if (directory->capacity_bytes / 4 < tier.segment_bytes()) {
      checks.Refuse("nvme_tier.directories", base::Quoted(text),
                    absl::StrCat("at least 4 segments (nvme_tier.segment_bytes is ",
                                 base::FormatBytes(tier.segment_bytes()), ")"));
    }
  }
  if (tier.directories().empty()) {
    if (tier.durability() == "nvme_async" || tier.durability() == "nvme_sync") {
      checks.Refuse("nvme_tier.durability", tier.durability(),
                    "memory without nvme_tier.directories");
    }
    return;
  }
  checks.Bytes("nvme_tier.staging_bytes", tier.staging_bytes(), object + (8 << 10), 1ull << 46);
  // A record has a header, and a segment a footer.
  if (tier.segment_bytes() < object + (1 << 20)) {
    checks.Refuse("nvme_tier.segment_bytes", base::FormatBytes(tier.segment_bytes()),
                  absl::StrCat("at least 1MiB more than sessions.max_object_bytes, which is ",
                               base::FormatBytes(object)));
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

  auto* nvme = config.mutable_nvme_tier();
  nvme->set_durability("memory");
  nvme->set_segment_bytes(256 << 20);
  nvme->set_queue_depth(64);
  nvme->set_io("auto");
  nvme->set_eviction("lru");
  nvme->set_low_watermark(0.90);
  nvme->set_high_watermark(0.95);
  nvme->set_staging_bytes(128 << 20);
  nvme->set_promote_uses(2);
  nvme->set_notes_share(0.25);

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

absl::StatusOr<tier::LogDirectory> ParseDirectory(const std::string& text) {
  const size_t equals = text.rfind('=');
  if (equals == std::string::npos || equals == 0) {
    return absl::InvalidArgumentError(absl::StrCat("no PATH=SIZE: ", base::Quoted(text)));
  }
  tier::LogDirectory directory;
  directory.path = base::PlainPath(text.substr(0, equals));
  VARVE_ASSIGN_OR_RETURN(directory.capacity_bytes, base::ParseBytes(text.substr(equals + 1)));
  return directory;
}

absl::Status ValidateStoreConfig(const StoreConfig& config) {
  base::ConfigChecks checks;
  checks.Address("listen", config.listen());
  checks.HttpAddress("http_listen", config.http_listen());
  checks.LogLevel("log_level", config.log_level());
  CheckHostTier(config.host_tier(), checks);
  CheckNvmeTier(config, checks);
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
