#include "kvstore/tier/directory_io.h"

#include <utility>

namespace varve::tier {

DirectoryIo::~DirectoryIo() {
  base::MutexLock lock(mutex_);
  while (under_way_ > 0) changed_.Wait(mutex_);
}

absl::Duration DirectoryIo::OldestAge() const {
  base::MutexLock lock(mutex_);
  if (begun_.empty()) return absl::ZeroDuration();
  return absl::FromChrono(Clock::now() - begun_.front());
}

DirectoryIo::Call::Call(DirectoryIo* io) : io_(io) {
  base::MutexLock lock(io_->mutex_);
  begun_ = io_->begun_.insert(io_->begun_.end(), Clock::now());
}

DirectoryIo::Call::~Call() {
  base::MutexLock lock(io_->mutex_);
  io_->begun_.erase(begun_);
}

void DirectoryIo::Add(IoRequest request) {
  auto added = std::make_unique<IoRequest>(std::move(request));
  Begun::iterator begun;
  {
    base::MutexLock lock(mutex_);
    ++under_way_;
    if (in_flight_ == depth_) return queue_.Push(std::move(added));
    ++in_flight_;
    begun = begun_.insert(begun_.end(), Clock::now());
  }
  Start(std::move(added), begun);
}

void DirectoryIo::Start(std::unique_ptr<IoRequest> request, Begun::iterator begun) {
  BlockIo::Done done = [this, begun, done = std::move(request->done)](absl::Status status) mutable {
    std::unique_ptr<IoRequest> next;
    Begun::iterator next_begun;
    {
      base::MutexLock lock(mutex_);
      begun_.erase(begun);
      next = queue_.Pop();
      if (next != nullptr) {
        next_begun = begun_.insert(begun_.end(), Clock::now());
      } else {
        --in_flight_;
      }
    }
    if (next != nullptr) Start(std::move(next), next_begun);
    std::move(done)(std::move(status));
    base::MutexLock lock(mutex_);
    if (--under_way_ == 0) changed_.NotifyAll();
  };
  const IoRequest& what = *request;
  switch (what.op) {
    case IoOp::kRead:
      return io_->Read(what.fd, what.offset, {what.data, what.bytes}, what.io_class,
                       std::move(done));
    case IoOp::kWrite:
      return io_->Write(what.fd, what.offset, {what.data, what.bytes}, what.io_class,
                        std::move(done));
    case IoOp::kSync:
      return io_->Sync(what.fd, std::move(done));
  }
}

}  // namespace varve::tier
