#include "kvstore/server/disk_stack.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "kvstore/base/log.h"
#include "kvstore/base/status.h"
#include "kvstore/base/units.h"
#include "kvstore/server/config.h"

namespace varve::server {
namespace {

constexpr int kLogThreads = 4;
constexpr int kMoverThreads = 2;
constexpr uint32_t kMaxQueueDepth = 4096;
constexpr uint32_t kMaxThreads = 32;  // of a directory, where there is no io_uring
// Directories that may be added and still have their share of the queue to themselves.
constexpr uint32_t kMoreDirectories = 4;

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
  disk->log_pool_ = std::make_unique<base::ThreadPool>("log", kLogThreads);
  tier::BlockIoOptions io_options;
  // A directory whose disk hangs keeps its own share, and no other waits for it.
  const auto shares = static_cast<uint32_t>(config.directories_size()) + kMoreDirectories;
  io_options.queue_depth = std::min(config.queue_depth() * shares, kMaxQueueDepth);
  io_options.on_io = [m = &metrics](const tier::IoReport& report) { m->ObserveIo(report); };
  VARVE_ASSIGN_OR_RETURN(disk->io_, MakeIo(config.io(), io_options));
  disk->io_->AddBuffer(disk->staging_->memory());
  metrics.SetIoEngine(disk->io_->name());
  const bool threads = std::string_view(disk->io_->name()) == "threads";
  options.queue_depth =
      threads ? std::min(config.queue_depth(), kMaxThreads) : config.queue_depth();
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
