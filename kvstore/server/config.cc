#include "kvstore/server/config.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvstore/base/units.h"
#include "kvstore/server/embedded_store.h"

namespace varve::server {
namespace {

using varve::v1::StoreConfig;

class Problems {
 public:
  void Add(const std::string& field, const std::string& value, const std::string& allowed) {
    list_.push_back(absl::StrCat(field, ": ", value, " is not allowed; ", allowed));
  }
  template <typename T>
  void CheckRange(const std::string& field, T value, T low, T high) {
    if (value >= low && value <= high) return;
    Add(field, absl::StrCat(value), absl::StrCat("between ", low, " and ", high));
  }
  void CheckBytes(const std::string& field, uint64_t value, uint64_t low, uint64_t high) {
    if (value >= low && value <= high) return;
    Add(field, base::FormatBytes(value),
        absl::StrCat("between ", base::FormatBytes(low), " and ", base::FormatBytes(high)));
  }
  void CheckMillis(const std::string& field, uint64_t value, uint64_t low, uint64_t high) {
    if (value >= low && value <= high) return;
    Add(field, absl::FormatDuration(absl::Milliseconds(value)),
        absl::StrCat("between ", absl::FormatDuration(absl::Milliseconds(low)), " and ",
                     absl::FormatDuration(absl::Milliseconds(high))));
  }
  void CheckOneOf(const std::string& field, const std::string& value,
                  const std::vector<std::string>& allowed) {
    for (const std::string& a : allowed) {
      if (value == a) return;
    }
    Add(field, absl::StrCat("'", value, "'"),
        absl::StrCat("one of ", absl::StrJoin(allowed, ", ")));
  }
  absl::Status ToStatus() const {
    if (list_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(list_, "\n"));
  }

 private:
  std::vector<std::string> list_;
};

bool IsHostPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  return colon != std::string::npos && colon > 0 &&
         absl::SimpleAtoi(address.substr(colon + 1), &port) && port <= 65535;
}

void CheckAddresses(const StoreConfig& config, Problems& problems) {
  const std::string& listen = config.listen();
  if (absl::StartsWith(listen, "unix:") ? listen.size() <= 5 : !IsHostPort(listen)) {
    problems.Add("listen", absl::StrCat("'", listen, "'"),
                 "host:port (port 0 picks one) or unix:/path");
  }
  if (!config.http_listen().empty() && !IsHostPort(config.http_listen())) {
    problems.Add("http_listen", absl::StrCat("'", config.http_listen(), "'"),
                 "host:port (port 0 picks one), or empty for none");
  }
}

void CheckHostTier(const varve::v1::HostTierConfig& tier, Problems& problems) {
  problems.CheckBytes("host_tier.capacity_bytes", tier.capacity_bytes(), 1 << 20, 1ull << 46);
  problems.CheckOneOf("host_tier.eviction", tier.eviction(), {"lru"});
  problems.CheckRange("host_tier.low_watermark", tier.low_watermark(), 0.0, 1.0);
  problems.CheckRange("host_tier.high_watermark", tier.high_watermark(), 0.0, 1.0);
  if (!(tier.low_watermark() <= tier.high_watermark())) {
    problems.Add(
        "host_tier.low_watermark", absl::StrCat(tier.low_watermark()),
        absl::StrCat("at most host_tier.high_watermark, which is ", tier.high_watermark()));
  }
}

void CheckTransport(const varve::v1::TransportConfig& transport, Problems& problems) {
  if (transport.lanes().empty())
    problems.Add("transport.lanes", "[]", "at least one of shm, tcp, rdma");
  for (const std::string& lane : transport.lanes()) {
    problems.CheckOneOf("transport.lanes", lane, {"shm", "tcp", "rdma"});
  }
  problems.CheckMillis("transport.transfer_deadline_ms", transport.transfer_deadline_ms(), 1,
                       absl::ToInt64Milliseconds(kMaxTransferDeadline));
  problems.CheckBytes("transport.segment_bytes", transport.segment_bytes(), 4 << 10, 64 << 20);
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

  auto* recall = config.mutable_recall();
  recall->set_threads(2);
  recall->set_max_digest_bytes(4ull << 30);
  recall->set_max_contexts(10000);
  return config;
}

absl::Status ValidateStoreConfig(const StoreConfig& config) {
  Problems problems;
  CheckAddresses(config, problems);
  problems.CheckOneOf("log_level", config.log_level(),
                      {"debug", "info", "warning", "error", "off"});
  CheckHostTier(config.host_tier(), problems);
  CheckTransport(config.transport(), problems);
  const auto& sessions = config.sessions();
  problems.CheckRange("sessions.max_sessions", sessions.max_sessions(), 1u, 1000000u);
  problems.CheckRange("sessions.max_batch_items", sessions.max_batch_items(), 1u, 1u << 20);
  problems.CheckBytes("sessions.max_object_bytes", sessions.max_object_bytes(), 1, 4ull << 30);
  if (sessions.max_object_bytes() > config.host_tier().capacity_bytes()) {
    problems.Add("sessions.max_object_bytes", base::FormatBytes(sessions.max_object_bytes()),
                 absl::StrCat("at most host_tier.capacity_bytes, which is ",
                              base::FormatBytes(config.host_tier().capacity_bytes())));
  }
  problems.CheckRange("sessions.max_regions", sessions.max_regions(), 1u, 1u << 20);
  problems.CheckRange("recall.threads", config.recall().threads(), 1u, 1024u);
  problems.CheckBytes("recall.max_digest_bytes", config.recall().max_digest_bytes(), 1 << 10,
                      1ull << 46);
  problems.CheckRange("recall.max_contexts", config.recall().max_contexts(), 1u, 10000000u);
  problems.CheckMillis("drain_ms", config.drain_ms(), 0, 3600 * 1000);
  return problems.ToStatus();
}

}  // namespace varve::server
