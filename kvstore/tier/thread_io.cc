// BlockIo by threads that call pread, pwrite and fdatasync.
#include <unistd.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/block_io_queue.h"

namespace varve::tier {
namespace {

int64_t Call(const IoRequest& request) {
  const auto offset = static_cast<off_t>(request.offset + request.moved);
  std::byte* const data = request.data + request.moved;
  const size_t left = request.bytes - request.moved;
  int64_t result = 0;
  switch (request.op) {
    case IoOp::kRead:
      result = pread(request.fd, data, left, offset);
      break;
    case IoOp::kWrite:
      result = pwrite(request.fd, data, left, offset);
      break;
    case IoOp::kSync:
      result = fdatasync(request.fd);
      break;
  }
  return result < 0 ? -errno : result;
}

class ThreadIo final : public QueuedIo {
 public:
  explicit ThreadIo(const BlockIoOptions& options) : options_(options) {}
  ~ThreadIo() override {
    std::vector<std::thread> threads;
    {
      base::MutexLock lock(mutex_);
      stopping_ = true;
      wake_.NotifyAll();
      threads.swap(threads_);
    }
    for (std::thread& thread : threads) thread.join();
  }

  const char* name() const override { return "threads"; }

 private:
  void Add(IoRequest request) override {
    base::MutexLock lock(mutex_);
    queue_.Push(std::make_unique<IoRequest>(std::move(request)));
    // As many threads as operations were under way at a time.
    if (++under_way_ > threads_.size() && threads_.size() < options_.queue_depth && !stopping_) {
      threads_.emplace_back([this] { Loop(); });
    }
    wake_.NotifyOne();
  }

  void Loop() {
    base::NameThisThread("block-io");
    while (std::unique_ptr<IoRequest> request = Next()) {
      absl::Status status;
      while (!Advance(*request, Call(*request), &status)) {
      }
      Finish(std::move(request), std::move(status), options_);
      base::MutexLock lock(mutex_);
      --under_way_;
    }
  }

  // Null when the threads shall end: what was asked for before is done first.
  std::unique_ptr<IoRequest> Next() {
    base::MutexLock lock(mutex_);
    while (queue_.empty() && !stopping_) wake_.Wait(mutex_);
    return queue_.Pop();
  }

  const BlockIoOptions options_;
  base::Mutex mutex_;
  base::CondVar wake_;
  IoQueue queue_ ABSL_GUARDED_BY(mutex_);
  size_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;  // asked for, and their Done has not run
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlockIo>> MakeThreadIo(const BlockIoOptions& options) {
  if (options.queue_depth < 1 || options.queue_depth > 4096) {
    return absl::InvalidArgumentError(
        absl::StrCat("queue_depth is ", options.queue_depth, ", allowed: 1..4096"));
  }
  return std::make_unique<ThreadIo>(options);
}

}  // namespace varve::tier
