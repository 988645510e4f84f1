#include "gpu_worker/sidecar/config.h"

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/worker.h"
#include "kvstore/base/config_checks.h"
#include "kvstore/base/status.h"
#include "kvstore/page/digest/digest.h"
#include "kvstore/transport/port_range.h"

namespace varve::worker {
namespace {

using varve::v1::WorkerConfig;

bool IsWritableDirectory(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode) &&
         access(path.c_str(), W_OK | X_OK) == 0;
}

// What the file system holds when empty; all there is when it does not say.
uint64_t FileSystemBytes(const std::string& directory) {
  struct statvfs info {};
  if (statvfs(directory.c_str(), &info) != 0 || info.f_blocks == 0) return UINT64_MAX;
  return uint64_t{info.f_blocks} * info.f_frsize;
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
  config.set_pool_bytes(1ull << 30);
  config.set_digest("minmax");
  config.set_recall_path("worker");
  config.set_step_deadline_ms(10000);
  config.set_shared_memory_dir("/dev/shm");
  config.set_drain_ms(10000);
  config.set_eigensolver("auto");
  return config;
}

absl::Status ValidateWorkerConfig(const WorkerConfig& config) {
  base::ConfigChecks checks;
  checks.Address("listen", config.listen());
  checks.HttpAddress("http_listen", config.http_listen());
  checks.Address("store", config.store());
  if (config.key_namespace().size() > 512) {
    checks.Refuse("key_namespace", absl::StrCat(config.key_namespace().size(), " bytes"),
                  "at most 512 bytes");
  }
  checks.LogLevel("log_level", config.log_level());
  const auto& lanes = config.transport().lanes();
  checks.SomeOf("transport.lanes", {lanes.begin(), lanes.end()}, {"shm", "tcp", "rdma"});
  checks.Millis("transport.transfer_deadline_ms", config.transport().transfer_deadline_ms(), 1,
                600000);
  if (!transport::ParsePortRange(config.transport().tcp_port_range()).ok()) {
    checks.Refuse("transport.tcp_port_range", base::Quoted(config.transport().tcp_port_range()),
                  transport::kPortRangeForm);
  }
  checks.Bytes("pool_bytes", config.pool_bytes(), 1 << 20, 1ull << 46);
  std::vector<std::string> digests;
  for (const page::DigestKindInfo& kind : page::DigestKinds()) digests.emplace_back(kind.name);
  checks.OneOf("digest", config.digest(), digests);
  checks.OneOf("recall_path", config.recall_path(), {"worker", "store"});
  checks.OneOf("eigensolver", config.eigensolver(), {"auto", "cpu", "cuda"});
  checks.Range("prefetch_layers", config.prefetch_layers(), 0u, 65536u);
  checks.Range("attend_threads", config.attend_threads(), 0u, kMaxAttendThreads);
  checks.Millis("step_deadline_ms", config.step_deadline_ms(), 1, 600000);
  if (!IsWritableDirectory(config.shared_memory_dir())) {
    checks.Refuse("shared_memory_dir", absl::StrCat("'", config.shared_memory_dir(), "'"),
                  "a directory in which this process may create files");
  } else if (const uint64_t room = FileSystemBytes(config.shared_memory_dir());
             config.pool_bytes() > room) {
    checks.Refuse("pool_bytes", absl::StrCat(config.pool_bytes()),
                  absl::StrCat("at most the ", room, " bytes of the file system of ",
                               config.shared_memory_dir(), " (shared_memory_dir)"));
  }
  checks.Millis("drain_ms", config.drain_ms(), 0, 3600 * 1000);
  return checks.Result();
}

}  // namespace varve::worker
