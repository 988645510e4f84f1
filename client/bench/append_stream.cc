#include "client/bench/append_stream.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/console/stop.h"
#include "kvstore/base/status.h"
#include "kvstore/page/checksum.h"

namespace varve::client {
namespace {

constexpr uint64_t kSegments = 16;  // at least, of the log
constexpr size_t kErasedAtOnce = 16;
constexpr size_t kLabelBytes = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<AppendStream>> AppendStream::Open(
    const std::string& directory, uint64_t bytes, uint32_t buffers, tier::BlockIo* io,
    std::span<const std::byte> payload) {
  std::unique_ptr<AppendStream> stream(
      new AppendStream(absl::StrCat(directory, "/varve-bench-", getpid(), ".log"), payload));
  tier::SegmentLogOptions options;
  options.directories = {{stream->folder_, bytes}};
  options.segment_bytes = std::min<uint64_t>(options.segment_bytes, bytes / kSegments >> 20 << 20);
  options.write_buffers = buffers;
  VARVE_ASSIGN_OR_RETURN(stream->log_, tier::OpenSegmentLog(options, io, &stream->executor_));
  VARVE_RETURN_IF_ERROR(stream->log_->Recover([](const tier::RecordLog::Recovered&) {}));
  base::MutexLock lock(stream->mutex_);
  stream->max_records_ = stream->log_->Usage().usable_bytes / 2 / payload.size();
  return stream;
}

AppendStream::AppendStream(std::string folder, std::span<const std::byte> payload)
    : folder_(std::move(folder)),
      payload_(payload),
      payload_crc32c_(page::Crc32c(payload.data(), payload.size())) {}

AppendStream::~AppendStream() {
  log_.reset();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

absl::Status AppendStream::RunFor(uint32_t depth, double seconds, Series& series) {
  return Run(depth, UINT64_MAX, NowSeconds() + seconds, series);
}

absl::Status AppendStream::RunOver(uint32_t depth) {
  Series unkept;
  uint64_t operations;
  {
    base::MutexLock lock(mutex_);
    operations = 3 * max_records_;
  }
  return Run(depth, operations, /*until=*/1e300, unkept);
}

absl::Status AppendStream::Run(uint32_t depth, uint64_t operations, double until, Series& series) {
  const double begin = NowSeconds();
  {
    base::MutexLock lock(mutex_);
    operations_left_ = operations;
    until_ = until;
    lanes_ = depth;
    latencies_.clear();
  }
  for (uint32_t lane = 0; lane < depth; ++lane) Next();
  base::MutexLock lock(mutex_);
  while (lanes_ > 0) ended_.Wait(mutex_);
  const double seconds = NowSeconds() - begin;
  while (erasing_ > 0) ended_.Wait(mutex_);
  VARVE_RETURN_IF_ERROR(status_);
  VARVE_RETURN_IF_ERROR(console::CheckStopped());
  series.rate_per_round.push_back(static_cast<double>(latencies_.size() * payload_.size()) /
                                  seconds);
  series.batch_seconds.insert(series.batch_seconds.end(), latencies_.begin(), latencies_.end());
  return absl::OkStatus();
}

std::vector<tier::RecordId> AppendStream::TakeOldest() {
  std::vector<tier::RecordId> oldest;
  if (records_.size() <= max_records_) return oldest;
  oldest.assign(records_.begin(), records_.begin() + kErasedAtOnce);
  records_.erase(records_.begin(), records_.begin() + kErasedAtOnce);
  ++erasing_;
  return oldest;
}

// A lane's next append, or its end.
void AppendStream::Next() {
  const double now = NowSeconds();
  std::vector<tier::RecordId> oldest;
  {
    base::MutexLock lock(mutex_);
    if (!status_.ok() || now >= until_ || operations_left_ == 0 || console::Stopped()) {
      if (--lanes_ == 0) ended_.NotifyAll();
      return;
    }
    --operations_left_;
    oldest = TakeOldest();
  }
  if (!oldest.empty()) {
    log_->Erase(oldest, tier::Sync::kNo, [this](absl::Status status) {
      base::MutexLock lock(mutex_);
      status_.Update(status);
      if (--erasing_ == 0) ended_.NotifyAll();
    });
  }
  const tier::RecordId id =
      log_->Append({std::string(kLabelBytes, 'l'), payload_, payload_crc32c_, tier::Sync::kNo},
                   [this, now](absl::Status status) {
                     {
                       base::MutexLock lock(mutex_);
                       latencies_.push_back(NowSeconds() - now);
                       status_.Update(status);
                     }
                     Next();
                   });
  base::MutexLock lock(mutex_);
  records_.push_back(id);
}

}  // namespace varve::client
