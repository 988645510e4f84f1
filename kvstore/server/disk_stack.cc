#include "kvstore/server/disk_stack.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/server/config.h"

namespace varve::server {
namespace {

constexpr int kMaxLogThreads = 4;
constexpr int kMoverThreads = 2;

absl::StatusOr<std::unique_ptr<tier::BlockIo>> MakeIo(const std::string& kind,
                                                      const tier::BlockIoOptions& options) {
  if (kind == "io_uring") return tier::MakeUringIo(options);
  if (kind == "threads") return tier::MakeThreadIo(options);
  return tier::MakeBlockIo(options);
}

store::Durability ParseDurability(const std::string& name) {
  if (name == "nvme_sync") return store::Durability::kNvmeSync;
  return name == "nvme_async" ? store::Durability::kNvmeAsync : store::Durability::kMemory;
}

}  // namespace

void WarnBeyondFileSystem(const std::string& path, uint64_t capacity_bytes) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(path, error);
  if (error || capacity_bytes <= space.capacity) return;
  base::LogWarning(path, " is given ", base::FormatBytes(capacity_bytes),
                   ", and its file system has ", base::FormatBytes(space.capacity),
                   ": it will be full before");
}

absl::StatusOr<std::unique_ptr<DiskStack>> DiskStack::Open(const varve::v1::NvmeTierConfig& config,
                                                           StoreMetrics& metrics) {
  std::unique_ptr<DiskStack> disk(new DiskStack(config));
  VARVE_ASSIGN_OR_RETURN(disk->staging_, tier::HostTier::Create({
                                             .capacity_bytes = config.staging_bytes(),
                                             .huge_pages = true,
                                             .slot_alignment_bytes = tier::kReadAlignment,
                                         }));
  tier::SegmentLogOptions options;
  options.segment_bytes = config.segment_bytes();
  for (const std::string& text : config.directories()) {
    VARVE_ASSIGN_OR_RETURN(tier::LogDirectory directory, ParseDirectory(text));
    options.directories.push_back(std::move(directory));
  }
  disk->log_pool_ = std::make_unique<base::ThreadPool>(
      "nvme", std::clamp(config.directories_size(), 1, kMaxLogThreads));
  tier::BlockIoOptions io_options;
  io_options.queue_depth = config.queue_depth();
  io_options.on_io = [m = &metrics](const tier::IoReport& report) { m->ObserveIo(report); };
  VARVE_ASSIGN_OR_RETURN(disk->io_, MakeIo(config.io(), io_options));
  disk->io_->AddBuffer(disk->staging_->memory());
  metrics.SetIoEngine(disk->io_->name());
  VARVE_ASSIGN_OR_RETURN(disk->log_,
                         tier::OpenSegmentLog(options, disk->io_.get(), disk->log_pool_.get()));
  for (const tier::LogDirectory& directory : options.directories) {
    WarnBeyondFileSystem(directory.path, directory.capacity_bytes);
  }
  disk->mover_pool_ = std::make_unique<base::ThreadPool>("mover", kMoverThreads);
  return disk;
}

store::DiskOptions DiskStack::options() const {
  store::DiskOptions options;
  options.log = log_.get();
  options.staging = staging_.get();
  options.executor = mover_pool_.get();
  options.durability = ParseDurability(config_.durability());
  options.eviction = config_.eviction();
  options.low_watermark = config_.low_watermark();
  options.high_watermark = config_.high_watermark();
  options.promote_uses = config_.promote_uses();
  options.notes_share = config_.notes_share();
  return options;
}

}  // namespace varve::server
