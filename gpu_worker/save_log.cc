#include "gpu_worker/save_log.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/call_deadline.h"
#include "kvstore/base/status.h"

namespace varve::worker {
namespace {

// Far beyond any wait here, and safe to add to a clock.
std::chrono::nanoseconds Bounded(absl::Duration d) {
  return absl::ToChronoNanoseconds(std::clamp(d, absl::ZeroDuration(), absl::Hours(24)));
}

absl::Status Stalled(absl::Duration patience, std::string_view what) {
  return absl::DeadlineExceededError(absl::StrCat("the store did not acknowledge ", base::Sv(what),
                                                  " within ", absl::FormatDuration(patience)));
}

}  // namespace

SaveLog::SaveLog(std::string context_id, uint32_t epoch, uint32_t num_layers, uint32_t known_blocks)
    : SaveLog(std::move(context_id), epoch, known_blocks,
              std::vector<uint32_t>(num_layers, known_blocks)) {}

SaveLog::SaveLog(std::string context_id, uint32_t epoch, uint32_t known_blocks,
                 std::vector<uint32_t> digest_blocks)
    : context_id_(std::move(context_id)),
      epoch_(epoch),
      first_hash_(known_blocks),
      context_blocks_(known_blocks),
      digest_blocks_(std::move(digest_blocks)),
      unsent_(digest_blocks_.size()) {}

void SaveLog::AddBlockHash(std::string hash) {
  base::MutexLock lock(mutex_);
  hashes_.push_back(std::move(hash));
}

void SaveLog::Take(std::vector<SaveResult>& out) {
  base::MutexLock lock(mutex_);
  out.insert(out.end(), results_.begin(), results_.end());
  results_.clear();
}

absl::Status SaveLog::error() const {
  base::MutexLock lock(mutex_);
  return error_;
}

bool SaveLog::idle() const {
  base::MutexLock lock(mutex_);
  return under_way_ == 0;
}

uint32_t SaveLog::digest_blocks(uint32_t layer) const {
  base::MutexLock lock(mutex_);
  return digest_blocks_[layer];
}

uint32_t SaveLog::context_blocks() const {
  base::MutexLock lock(mutex_);
  return context_blocks_;
}

void SaveLog::Cancel() {
  base::MutexLock lock(mutex_);
  cancelled_ = true;
}

absl::Status SaveLog::WaitIdle(absl::Duration patience) {
  base::MutexLock lock(mutex_);
  while (under_way_ > 0) {
    const uint64_t before = moves_;
    const absl::Duration wait = client::CallDeadline::Shorten(patience);
    const bool notified = moved_.WaitFor(mutex_, Bounded(wait));
    if (!notified && moves_ == before && under_way_ > 0) return Stalled(patience, "saved pages");
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SaveLog::WaitProgress(absl::Duration patience) {
  base::MutexLock lock(mutex_);
  if (under_way_ == 0) return false;
  const uint64_t before = moves_;
  const absl::Time deadline = absl::Now() + patience;
  while (moves_ == before) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return Stalled(patience, "saved pages");
    moved_.WaitFor(mutex_, Bounded(left));
  }
  return true;
}

}  // namespace varve::worker
