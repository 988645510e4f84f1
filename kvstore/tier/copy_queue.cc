#include "kvstore/tier/copy_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "kvstore/base/executor.h"

namespace varve::tier {

CopyQueue::~CopyQueue() {
  {
    base::MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyOne();
  }
  thread_.join();
}

void CopyQueue::Write(uint64_t offset, std::span<const std::byte> from, Tier::Done done) {
  Add({true, offset, const_cast<std::byte*>(from.data()), from.size(), std::move(done)});
}

void CopyQueue::Read(uint64_t offset, std::span<std::byte> to, Tier::Done done) {
  Add({false, offset, to.data(), to.size(), std::move(done)});
}

void CopyQueue::Add(Copy copy) {
  base::MutexLock lock(mutex_);
  waiting_.push_back(std::move(copy));
  wake_.NotifyOne();
}

void CopyQueue::Loop() {
  base::NameThisThread("gpu-copies");
  for (;;) {
    std::vector<Copy> next = Next();
    if (next.empty() && under_way_.empty()) return;
    for (Copy& copy : next) Start(std::move(copy));
    if (!under_way_.empty()) EndOldest();
  }
}

std::vector<CopyQueue::Copy> CopyQueue::Next() {
  base::MutexLock lock(mutex_);
  while (waiting_.empty() && under_way_.empty() && !stopping_) wake_.Wait(mutex_);
  const size_t count = std::min(waiting_.size(), DeviceMemory::kMaxCopies - under_way_.size());
  const auto end = waiting_.begin() + static_cast<ptrdiff_t>(count);
  std::vector<Copy> next(std::make_move_iterator(waiting_.begin()), std::make_move_iterator(end));
  waiting_.erase(waiting_.begin(), end);
  return next;
}

void CopyQueue::Start(Copy copy) {
  absl::Status status = copy.write ? memory_->StartWrite(copy.offset, {copy.host, copy.bytes})
                                   : memory_->StartRead(copy.offset, {copy.host, copy.bytes});
  if (status.ok()) {
    under_way_.push_back(std::move(copy.done));
  } else {
    std::move(copy.done)(std::move(status));
  }
}

void CopyQueue::EndOldest() {
  absl::Status status = memory_->WaitForOldest();
  Tier::Done done = std::move(under_way_.front());
  under_way_.pop_front();
  std::move(done)(std::move(status));
}

}  // namespace varve::tier
