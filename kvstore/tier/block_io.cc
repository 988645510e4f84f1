#include "kvstore/tier/block_io.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kvstore/base/log.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/block_io_queue.h"

namespace varve::tier {
namespace {

const char* OpName(IoOp op) {
  switch (op) {
    case IoOp::kRead:
      return "read";
    case IoOp::kWrite:
      return "write";
    case IoOp::kSync:
      return "sync";
  }
  return "?";
}

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return absl::StatusCode::kResourceExhausted;
    case EIO:
    case ENODATA:
    case EREMOTEIO:
    case EBADMSG:
      return absl::StatusCode::kDataLoss;
    case EROFS:
    case EBADF:
    case EACCES:
    case EPERM:
      return absl::StatusCode::kPermissionDenied;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status Await(absl::FunctionRef<void(BlockIo::Done)> begin) {
  base::Mutex mutex;
  base::CondVar changed;
  std::optional<absl::Status> result;
  begin([&](absl::Status status) {
    base::MutexLock lock(mutex);
    result = std::move(status);
    changed.NotifyAll();
  });
  base::MutexLock lock(mutex);
  while (!result.has_value()) changed.Wait(mutex);
  return *std::move(result);
}

absl::Status IoError(const IoRequest& request, int error) {
  return absl::Status(CodeOf(error),
                      absl::StrCat(OpName(request.op), " of ", request.bytes, " bytes at ",
                                   request.offset, ": ", std::strerror(error)));
}

bool Advance(IoRequest& request, int64_t result, absl::Status* status) {
  if (result == -EINTR || result == -EAGAIN) return false;
  if (result < 0) {
    *status = IoError(request, static_cast<int>(-result));
    return true;
  }
  if (request.op == IoOp::kSync) return true;
  if (result == 0 && request.moved < request.bytes) {
    *status = request.op == IoOp::kRead
                  ? absl::OutOfRangeError(absl::StrCat(
                        "the file ends at ", request.offset + request.moved, ", inside a read of ",
                        request.bytes, " bytes at ", request.offset))
                  : IoError(request, ENOSPC);
    return true;
  }
  request.moved += static_cast<size_t>(result);
  return request.moved >= request.bytes;
}

void Finish(std::unique_ptr<IoRequest> request, absl::Status status,
            const BlockIoOptions& options) {
  if (options.on_io != nullptr) {
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - request->asked;
    options.on_io({request->op, request->bytes, taken.count(), status.ok()});
  }
  std::move(request->done)(std::move(status));
}

absl::StatusOr<std::unique_ptr<BlockIo>> MakeBlockIo(const BlockIoOptions& options) {
  absl::StatusOr<std::unique_ptr<BlockIo>> uring = MakeUringIo(options);
  if (uring.ok() || !absl::IsUnavailable(uring.status())) return uring;
  base::LogWarning("threads instead of io_uring: ", uring.status().message());
  return MakeThreadIo(options);
}

}  // namespace varve::tier
