// Asynchronous reads and writes of files, for tiers on disks: io_uring, or a pool of threads where
// the kernel refuses it.
//
// Threads: every method may be called from any thread. Done runs exactly once, on a thread of the
// BlockIo, never under a lock of it: it must be quick and may start new operations. At most
// queue_depth operations are with the kernel at a time; the others wait, demand before prefetch,
// each class in order. Memory and files of an operation must live until its Done. The destructor
// waits for all operations.
//
// A transfer is whole or an error: short ones are continued. Errors: OUT_OF_RANGE the file ends
// before the read does, RESOURCE_EXHAUSTED no space on the device (ENOSPC, EDQUOT), DATA_LOSS the
// device failed (EIO and the like), PERMISSION_DENIED a read-only file, else INTERNAL with the
// system's words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::tier {

enum class IoClass : uint8_t { kDemand, kPrefetch };
enum class IoOp : uint8_t { kRead, kWrite, kSync };

class BlockIo {
 public:
  using Done = absl::AnyInvocable<void(absl::Status) &&>;

  virtual ~BlockIo() = default;
  BlockIo(const BlockIo&) = delete;
  BlockIo& operator=(const BlockIo&) = delete;

  virtual const char* name() const = 0;  // "io_uring", "threads"
  // fd: of the caller. With O_DIRECT offset, size and address are multiples of the device's
  // alignment.
  virtual void Read(int fd, uint64_t offset, std::span<std::byte> to, IoClass io_class,
                    Done done) = 0;
  virtual void Write(int fd, uint64_t offset, std::span<const std::byte> from, IoClass io_class,
                     Done done) = 0;
  // What was written before, acknowledged, is on the device (fdatasync).
  virtual void Sync(int fd, Done done) = 0;

  // Hints: what many operations will use, so that the system looks it up once. They come before,
  // between or beside operations; those that begin after Add may wait until the memory is pinned.
  // Nothing follows from a hint but speed: a refusal is one line of the log.
  //
  // Buffers do not overlap. Before its memory is freed or its file closed, each is removed.
  virtual void AddBuffer(std::span<std::byte> /*buffer*/) {}
  virtual void RemoveBuffer(std::span<std::byte> /*buffer*/) {}  // as it was added
  virtual void AddFile(int /*fd*/) {}
  virtual void RemoveFile(int /*fd*/) {}

 protected:
  BlockIo() = default;
};

// Begins one operation by `begin` and waits for its end. Not on a thread of the BlockIo.
absl::Status Await(absl::FunctionRef<void(BlockIo::Done)> begin);

// A finished operation.
struct IoReport {
  IoOp op = IoOp::kRead;
  uint64_t bytes = 0;  // asked for
  double seconds = 0;  // from the caller's call to the end, time in the queue included
  bool ok = false;
};

struct BlockIoOptions {
  uint32_t queue_depth = 64;  // 1..4096
  // Called once for each operation, before its Done and as it: from several threads at once, and
  // quick. Null: nobody asks.
  std::function<void(const IoReport&)> on_io = nullptr;
};

// UNAVAILABLE when the kernel refuses io_uring; the message says why.
absl::StatusOr<std::unique_ptr<BlockIo>> MakeUringIo(const BlockIoOptions& options);
absl::StatusOr<std::unique_ptr<BlockIo>> MakeThreadIo(const BlockIoOptions& options);
// io_uring, or threads and a line of the log with the reason.
absl::StatusOr<std::unique_ptr<BlockIo>> MakeBlockIo(const BlockIoOptions& options);

}  // namespace varve::tier
