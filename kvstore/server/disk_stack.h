// The nvme tier's parts, made from the settings: threads, input and output, the log of records, and
// the memory that reads go through.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kvstore/base/executor.h"
#include "kvstore/server/metrics.h"
#include "kvstore/store/page_store.h"
#include "kvstore/tier/host_tier.h"
#include "kvstore/tier/segment_log.h"
#include "varve/v1/config.pb.h"

namespace varve::server {

// A line of the log when the directory's file system, the rest of it aside, is smaller.
void WarnBeyondFileSystem(const std::string& path, uint64_t capacity_bytes);

// Outlives the page store that uses it; what it reports to outlives it.
class DiskStack {
 public:
  // config: valid, with directories. Errors of the directories name them.
  static absl::StatusOr<std::unique_ptr<DiskStack>> Open(const varve::v1::NvmeTierConfig& config,
                                                         StoreMetrics& metrics);

  store::DiskOptions options() const;
  tier::RecordLog& log() { return *log_; }
  // "io_uring" or "threads"
  const char* io_name() const { return io_->name(); }

 private:
  explicit DiskStack(const varve::v1::NvmeTierConfig& config) : config_(config) {}

  // Destroyed in reverse.
  const varve::v1::NvmeTierConfig& config_;
  std::unique_ptr<tier::HostTier> staging_;
  std::unique_ptr<base::ThreadPool> log_pool_;
  std::unique_ptr<tier::BlockIo> io_;
  std::unique_ptr<tier::RecordLog> log_;
  std::unique_ptr<base::ThreadPool> mover_pool_;
};

}  // namespace varve::server
