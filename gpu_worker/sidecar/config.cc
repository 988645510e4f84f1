#include "gpu_worker/sidecar/config.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/page/digest/digest.h"

namespace varve::worker {
namespace {

using varve::v1::WorkerConfig;

class Checks {
 public:
  void Refuse(const std::string& field, const std::string& value, const std::string& allowed) {
    problems_.push_back(absl::StrCat(field, ": ", value, " is not allowed; ", allowed));
  }
  void OneOf(const std::string& field, const std::string& value,
             const std::vector<std::string>& allowed) {
    if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
    Refuse(field, absl::StrCat("'", value, "'"),
           absl::StrCat("one of ", absl::StrJoin(allowed, ", ")));
  }
  void Bytes(const std::string& field, uint64_t value, uint64_t low, uint64_t high) {
    if (value >= low && value <= high) return;
    Refuse(field, base::FormatBytes(value),
           absl::StrCat("between ", base::FormatBytes(low), " and ", base::FormatBytes(high)));
  }
  void Millis(const std::string& field, uint64_t value, uint64_t low, uint64_t high) {
    if (value >= low && value <= high) return;
    const auto text = [](uint64_t ms) { return absl::FormatDuration(absl::Milliseconds(ms)); };
    Refuse(field, text(value), absl::StrCat("between ", text(low), " and ", text(high)));
  }
  void Address(const std::string& field, const std::string& value, bool unix_allowed) {
    if (unix_allowed && absl::StartsWith(value, "unix:") && value.size() > 5) return;
    const size_t colon = value.rfind(':');
    uint32_t port = 0;
    if (!absl::StartsWith(value, "unix:") && colon != std::string::npos && colon > 0 &&
        absl::SimpleAtoi(value.substr(colon + 1), &port) && port <= 65535) {
      return;
    }
    Refuse(field, absl::StrCat("'", value, "'"),
           unix_allowed ? "host:port or unix:/path" : "host:port, or empty for none");
  }
  absl::Status Result() const {
    if (problems_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(problems_, "\n"));
  }

 private:
  std::vector<std::string> problems_;
};

bool IsWritableDirectory(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
         access(path.c_str(), W_OK | X_OK) == 0;
}

}  // namespace

WorkerConfig DefaultWorkerConfig() {
  WorkerConfig config;
  config.set_listen("unix:/tmp/varve-worker.sock");
  config.set_http_listen("127.0.0.1:7422");
  config.set_store("127.0.0.1:7411");
  config.set_key_namespace("default");
  config.set_log_level("info");
  auto* transport = config.mutable_transport();
  for (const char* lane : {"rdma", "shm", "tcp"}) transport->add_lanes(lane);
  transport->set_transfer_deadline_ms(10000);
  transport->set_segment_bytes(1 << 20);
  config.set_pool_bytes(1ull << 30);
  config.set_digest("minmax");
  config.set_recall_path("worker");
  config.set_step_deadline_ms(10000);
  config.set_shared_memory_dir("/dev/shm");
  config.set_drain_ms(10000);
  return config;
}

absl::Status ValidateWorkerConfig(const WorkerConfig& config) {
  Checks checks;
  checks.Address("listen", config.listen(), true);
  if (!config.http_listen().empty()) checks.Address("http_listen", config.http_listen(), false);
  checks.Address("store", config.store(), true);
  if (config.key_namespace().size() > 512) {
    checks.Refuse("key_namespace", absl::StrCat(config.key_namespace().size(), " bytes"),
                  "at most 512 bytes");
  }
  checks.OneOf("log_level", config.log_level(), {"debug", "info", "warning", "error", "off"});
  for (const std::string& lane : config.transport().lanes()) {
    checks.OneOf("transport.lanes", lane, {"shm", "tcp", "rdma"});
  }
  checks.Millis("transport.transfer_deadline_ms", config.transport().transfer_deadline_ms(), 1,
                600000);
  checks.Bytes("transport.segment_bytes", config.transport().segment_bytes(), 4 << 10, 64 << 20);
  checks.Bytes("pool_bytes", config.pool_bytes(), 1 << 20, 1ull << 46);
  std::vector<std::string> digests;
  for (const page::DigestKindInfo& kind : page::DigestKinds()) digests.emplace_back(kind.name);
  checks.OneOf("digest", config.digest(), digests);
  checks.OneOf("recall_path", config.recall_path(), {"worker", "store"});
  checks.Millis("step_deadline_ms", config.step_deadline_ms(), 1, 600000);
  if (!IsWritableDirectory(config.shared_memory_dir())) {
    checks.Refuse("shared_memory_dir", absl::StrCat("'", config.shared_memory_dir(), "'"),
                  "a directory in which this process may create files");
  }
  checks.Millis("drain_ms", config.drain_ms(), 0, 3600 * 1000);
  return checks.Result();
}

}  // namespace varve::worker
