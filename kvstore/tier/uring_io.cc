// BlockIo by io_uring: one ring, and one thread that alone touches it.
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/base/status.h"
#include "kvstore/tier/block_io_queue.h"
#include "kvstore/tier/uring_registry.h"

namespace varve::tier {
namespace {

class UringIo final : public QueuedIo {
 public:
  explicit UringIo(const BlockIoOptions& options) : options_(options) {}
  ~UringIo() override {
    if (thread_.joinable()) {
      {
        base::MutexLock lock(mutex_);
        stopping_ = true;
      }
      Wake();
      thread_.join();
    }
    if (wake_fd_ >= 0) close(wake_fd_);
  }

  absl::Status Start() {
    wake_fd_ = eventfd(0, EFD_CLOEXEC);
    if (wake_fd_ < 0) return absl::ErrnoToStatus(errno, "eventfd");
    std::promise<absl::Status> opened;
    std::future<absl::Status> status = opened.get_future();
    // The ring belongs to the thread that makes it.
    thread_ = std::thread([this, opened = std::move(opened)]() mutable {
      const absl::Status ring = OpenRing();
      opened.set_value(ring);
      if (ring.ok()) Loop();
    });
    return status.get();
  }

  const char* name() const override { return "io_uring"; }
  void AddBuffer(std::span<std::byte> buffer) override {
    Change([buffer](UringRegistry& registry) { registry.AddBuffer(buffer); });
  }
  void RemoveBuffer(std::span<std::byte> buffer) override {
    Change([buffer](UringRegistry& registry) { registry.RemoveBuffer(buffer); });
  }
  void AddFile(int fd) override {
    Change([fd](UringRegistry& registry) { registry.AddFile(fd); });
  }
  void RemoveFile(int fd) override {
    Change([fd](UringRegistry& registry) { registry.RemoveFile(fd); });
  }

 private:
  using RegistryChange = absl::AnyInvocable<void(UringRegistry&) &&>;

  absl::Status OpenRing() {
    io_uring_params params{};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    int error = io_uring_queue_init_params(options_.queue_depth + 1, &ring_, &params);
    if (error == -EINVAL) {
      params = {};
      error = io_uring_queue_init_params(options_.queue_depth + 1, &ring_, &params);
    }
    if (error == 0) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("the kernel refuses io_uring: ", std::strerror(-error)));
  }

  void Add(IoRequest request) override {
    bool wake;
    {
      base::MutexLock lock(mutex_);
      queue_.Push(std::make_unique<IoRequest>(std::move(request)));
      wake = std::exchange(asleep_, false);
    }
    if (wake) Wake();
  }

  // Only the ring's thread may register anything with it.
  void Change(RegistryChange change) {
    bool wake;
    {
      base::MutexLock lock(mutex_);
      changes_.push_back(std::move(change));
      wake = std::exchange(asleep_, false);
    }
    if (wake) Wake();
  }

  void Wake() const {
    const uint64_t one = 1;
    while (write(wake_fd_, &one, sizeof(one)) < 0 && errno == EINTR) {
    }
  }

  void Loop() {
    base::NameThisThread("block-io");
    ListenForWake();
    while (Fill()) {
      io_uring_submit_and_wait(&ring_, 1);
      Awake();
      Reap();
    }
    io_uring_queue_exit(&ring_);
  }

  // What comes now is taken by the next Fill: nobody needs to wake the thread, its own Done least.
  void Awake() {
    base::MutexLock lock(mutex_);
    asleep_ = false;
  }

  void ListenForWake() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    io_uring_prep_read(sqe, wake_fd_, &wakes_, sizeof(wakes_), 0);
    io_uring_sqe_set_data(sqe, nullptr);
  }

  // Requests from the queue to the ring, as many as may be. False: all is done, and no more comes.
  bool Fill() {
    std::vector<RegistryChange> changes;
    std::vector<std::unique_ptr<IoRequest>> requests;
    bool more;
    {
      base::MutexLock lock(mutex_);
      changes.swap(changes_);
      while (in_flight_ < options_.queue_depth) {
        std::unique_ptr<IoRequest> request = queue_.Pop();
        if (request == nullptr) break;
        ++in_flight_;
        requests.push_back(std::move(request));
      }
      asleep_ = in_flight_ < options_.queue_depth;
      more = !stopping_ || in_flight_ > 0;
    }
    // First: what was removed before a request came may have given it its address or descriptor.
    for (RegistryChange& change : changes) std::move(change)(registry_);
    for (std::unique_ptr<IoRequest>& request : requests) Submit(request.release());
    return more;
  }

  // The ring has an entry for each request in flight and one for the wake-up.
  void Submit(IoRequest* request) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    std::byte* const data = request->data + request->moved;
    const auto left =
        static_cast<unsigned>(std::min<size_t>(request->bytes - request->moved, 1u << 30));
    const uint64_t offset = request->offset + request->moved;
    const int buffer = registry_.BufferOf(data, left);
    const int file = registry_.FileOf(request->fd);
    const int fd = file >= 0 ? file : request->fd;
    switch (request->op) {
      case IoOp::kRead:
        buffer >= 0 ? io_uring_prep_read_fixed(sqe, fd, data, left, offset, buffer)
                    : io_uring_prep_read(sqe, fd, data, left, offset);
        break;
      case IoOp::kWrite:
        buffer >= 0 ? io_uring_prep_write_fixed(sqe, fd, data, left, offset, buffer)
                    : io_uring_prep_write(sqe, fd, data, left, offset);
        break;
      case IoOp::kSync:
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
        break;
    }
    if (file >= 0) io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, request);
  }

  void Reap() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
      auto* request = static_cast<IoRequest*>(io_uring_cqe_get_data(cqe));
      const int result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      if (request == nullptr) {
        ListenForWake();
        continue;
      }
      absl::Status status;
      if (!Advance(*request, result, &status)) {
        Submit(request);
        continue;
      }
      --in_flight_;
      Finish(std::unique_ptr<IoRequest>(request), std::move(status), options_);
    }
  }

  const BlockIoOptions options_;
  int wake_fd_ = -1;
  std::thread thread_;
  base::Mutex mutex_;
  IoQueue queue_ ABSL_GUARDED_BY(mutex_);
  std::vector<RegistryChange> changes_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool asleep_ ABSL_GUARDED_BY(mutex_) = false;  // the thread, and it would take a request

  // The thread's own.
  io_uring ring_{};
  UringRegistry registry_{&ring_};
  uint64_t wakes_ = 0;
  uint32_t in_flight_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlockIo>> MakeUringIo(const BlockIoOptions& options) {
  if (options.queue_depth < 1 || options.queue_depth > 4096) {
    return absl::InvalidArgumentError(
        absl::StrCat("queue_depth is ", options.queue_depth, ", allowed: 1..4096"));
  }
  auto io = std::make_unique<UringIo>(options);
  VARVE_RETURN_IF_ERROR(io->Start());
  return io;
}

}  // namespace varve::tier
