#include "kvstore/server/session.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"

namespace varve::server {

Session::Session(uint64_t number, std::string id, SessionInfo info,
                 std::unique_ptr<transport::Endpoint> endpoint, const SessionLimits& limits)
    : number_(number),
      id_(std::move(id)),
      info_(std::move(info)),
      limits_(limits),
      endpoint_(std::move(endpoint)) {}

absl::StatusOr<uint64_t> Session::AddRegion(uint64_t region_id, const std::string& descriptor) {
  if (endpoint_ == nullptr) {
    return absl::FailedPreconditionError(
        "an inline session has no regions; open the session with a transport_address");
  }
  {
    base::MutexLock lock(mutex_);
    if (regions_.contains(region_id)) {
      return absl::AlreadyExistsError(
          absl::StrCat("region_id ", region_id, " is registered already"));
    }
    if (regions_.size() >= limits_.max_regions) {
      return absl::ResourceExhaustedError(absl::StrCat("the session has ", regions_.size(),
                                                       " regions; sessions.max_regions allows ",
                                                       limits_.max_regions));
    }
  }
  VARVE_ASSIGN_OR_RETURN(std::unique_ptr<transport::RemoteRegion> region,
                         endpoint_->Import(descriptor));
  const uint64_t bytes = region->bytes();
  base::MutexLock lock(mutex_);
  // Never below 0, so that no sum overflows. What Import has mapped, but not touched, goes again.
  if (bytes > limits_.max_registered_bytes - registered_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "a region of ", bytes, " bytes, where the session has registered ", registered_bytes_,
        "; sessions.max_registered_bytes allows ", limits_.max_registered_bytes));
  }
  // Regions of a session come one at a time, in the order of its stream: the checks above still
  // hold.
  regions_.emplace(region_id, std::move(region));
  registered_bytes_ += bytes;
  return bytes;
}

absl::Status Session::RemoveRegion(uint64_t region_id) {
  RegionRef gone;  // destroyed after the lock
  base::MutexLock lock(mutex_);
  const auto found = regions_.find(region_id);
  if (found == regions_.end()) {
    return absl::NotFoundError(absl::StrCat("region_id ", region_id, " is not registered"));
  }
  gone = std::move(found->second);
  registered_bytes_ -= gone->bytes();
  regions_.erase(found);
  return absl::OkStatus();
}

RegionRef Session::FindRegion(uint64_t region_id) const {
  base::MutexLock lock(mutex_);
  const auto found = regions_.find(region_id);
  return found == regions_.end() ? nullptr : found->second;
}

uint32_t Session::num_regions() const {
  base::MutexLock lock(mutex_);
  return static_cast<uint32_t>(regions_.size());
}

uint64_t Session::registered_bytes() const {
  base::MutexLock lock(mutex_);
  return registered_bytes_;
}

void Session::SetStreamCloser(std::function<void(absl::Status)> closer) {
  base::MutexLock lock(mutex_);
  closer_ = std::move(closer);
}

std::function<void(absl::Status)> Session::TakeStreamCloser() {
  base::MutexLock lock(mutex_);
  return std::exchange(closer_, nullptr);
}

}  // namespace varve::server
