// What both kinds of BlockIo share: operations that wait for their turn, and what became of them.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <utility>

#include "kvstore/tier/block_io.h"

namespace varve::tier {

struct IoRequest {
  IoOp op = IoOp::kRead;
  IoClass io_class = IoClass::kDemand;
  int fd = -1;
  uint64_t offset = 0;
  std::byte* data = nullptr;
  size_t bytes = 0;
  size_t moved = 0;
  BlockIo::Done done;
  std::chrono::steady_clock::time_point asked = std::chrono::steady_clock::now();
};

// The status of an operation that failed with this errno.
absl::Status IoError(const IoRequest& request, int error);
// The outcome of one system call: true when the request is over, with *status; else it goes on from
// `moved`. result: bytes, or minus an errno.
bool Advance(IoRequest& request, int64_t result, absl::Status* status);
// Reports the request and runs its Done.
void Finish(std::unique_ptr<IoRequest> request, absl::Status status, const BlockIoOptions& options);

// Requests in their order: demand first. Not thread-safe.
class IoQueue {
 public:
  void Push(std::unique_ptr<IoRequest> request) {
    (request->io_class == IoClass::kDemand ? demand_ : prefetch_).push_back(std::move(request));
  }
  // Null when there is none.
  std::unique_ptr<IoRequest> Pop() {
    std::deque<std::unique_ptr<IoRequest>>& from = demand_.empty() ? prefetch_ : demand_;
    if (from.empty()) return nullptr;
    std::unique_ptr<IoRequest> request = std::move(from.front());
    from.pop_front();
    return request;
  }
  bool empty() const { return demand_.empty() && prefetch_.empty(); }

 private:
  std::deque<std::unique_ptr<IoRequest>> demand_, prefetch_;
};

// A BlockIo whose operations are requests in a queue.
class QueuedIo : public BlockIo {
 public:
  void Read(int fd, uint64_t offset, std::span<std::byte> to, IoClass io_class,
            Done done) override {
    Add({IoOp::kRead, io_class, fd, offset, to.data(), to.size(), 0, std::move(done)});
  }
  void Write(int fd, uint64_t offset, std::span<const std::byte> from, IoClass io_class,
             Done done) override {
    Add({IoOp::kWrite, io_class, fd, offset, const_cast<std::byte*>(from.data()), from.size(), 0,
         std::move(done)});
  }
  void Sync(int fd, Done done) override {
    Add({IoOp::kSync, IoClass::kDemand, fd, 0, nullptr, 0, 0, std::move(done)});
  }

 private:
  virtual void Add(IoRequest request) = 0;
};

}  // namespace varve::tier
