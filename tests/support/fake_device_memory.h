// DeviceMemory in host memory, as slow as can be: a copy happens when it is waited for, which the
// test can hold up; copies fail when it says so.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "kvstore/base/mutex.h"
#include "kvstore/tier/device_memory.h"

namespace varve::tier {

class FakeDeviceMemory final : public DeviceMemory {
 public:
  explicit FakeDeviceMemory(size_t bytes) : bytes_(bytes) {}

  // ---- by the test, from any thread
  // No copy ends any more, until Release.
  void Hold() {
    base::MutexLock lock(mutex_);
    held_ = true;
  }
  void Release() {
    base::MutexLock lock(mutex_);
    held_ = false;
    changed_.NotifyAll();
  }
  // Returns when a copy is under way.
  void AwaitCopy() {
    base::MutexLock lock(mutex_);
    while (copies_.empty()) changed_.Wait(mutex_);
  }
  size_t most_under_way() const {
    base::MutexLock lock(mutex_);
    return most_under_way_;
  }
  // The n-th copy from now, counted from 0, does not start, or starts and fails, with this.
  void FailStart(size_t n, absl::Status status) {
    base::MutexLock lock(mutex_);
    fail_start_ = {started_ + n, std::move(status)};
  }
  void FailCopy(size_t n, absl::Status status) {
    base::MutexLock lock(mutex_);
    fail_copy_ = {started_ + n, std::move(status)};
  }

  // ---- DeviceMemory
  std::span<std::byte> memory() const override { return bytes_; }
  absl::Status StartWrite(uint64_t offset, std::span<const std::byte> from) override {
    return Start({bytes_.data() + offset, from.data(), from.size(), {}});
  }
  absl::Status StartRead(uint64_t offset, std::span<std::byte> to) override {
    return Start({to.data(), bytes_.data() + offset, to.size(), {}});
  }
  absl::Status WaitForOldest() override {
    base::MutexLock lock(mutex_);
    while (held_) changed_.Wait(mutex_);
    const Copy copy = std::move(copies_.front());
    copies_.pop_front();
    if (copy.error.ok() && copy.bytes > 0) std::memcpy(copy.to, copy.from, copy.bytes);
    return copy.error;
  }

 private:
  struct Copy {
    void* to = nullptr;
    const void* from = nullptr;
    size_t bytes = 0;
    absl::Status error;
  };
  struct Failure {
    size_t copy = SIZE_MAX;
    absl::Status status;
  };

  absl::Status Start(Copy copy) {
    base::MutexLock lock(mutex_);
    const size_t number = started_++;
    if (number == fail_start_.copy) return fail_start_.status;
    if (number == fail_copy_.copy) copy.error = fail_copy_.status;
    copies_.push_back(std::move(copy));
    most_under_way_ = std::max(most_under_way_, copies_.size());
    changed_.NotifyAll();
    return absl::OkStatus();
  }

  mutable std::vector<std::byte> bytes_;
  mutable base::Mutex mutex_;
  base::CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Copy> copies_ ABSL_GUARDED_BY(mutex_);
  size_t started_ ABSL_GUARDED_BY(mutex_) = 0, most_under_way_ ABSL_GUARDED_BY(mutex_) = 0;
  Failure fail_start_ ABSL_GUARDED_BY(mutex_), fail_copy_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace varve::tier
