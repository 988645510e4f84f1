// What goes to one directory's disk: how much at a time, and since when. A disk that hangs then
// keeps its own share of the BlockIo and no more.
//
// Threads: as BlockIo.
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <span>

#include "absl/time/time.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/block_io_queue.h"

namespace varve::tier {

class DirectoryIo final : public QueuedIo {
  using Clock = std::chrono::steady_clock;
  using Begun = std::list<Clock::time_point>;

 public:
  // io outlives this. At most `depth` operations are with it at a time.
  DirectoryIo(BlockIo* io, uint32_t depth) : io_(io), depth_(depth) {}
  ~DirectoryIo() override;

  // For how long the oldest of the operations under way has been with the disk; 0 without one.
  absl::Duration OldestAge() const;

  // A system call on the directory's files, from here to the end of its life: it counts as an
  // operation in OldestAge.
  class Call {
   public:
    explicit Call(DirectoryIo* io);
    ~Call();
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    DirectoryIo* const io_;
    Begun::iterator begun_;
  };

  const char* name() const override { return io_->name(); }
  void AddBuffer(std::span<std::byte> buffer) override { io_->AddBuffer(buffer); }
  void RemoveBuffer(std::span<std::byte> buffer) override { io_->RemoveBuffer(buffer); }
  void AddFile(int fd) override { io_->AddFile(fd); }
  void RemoveFile(int fd) override { io_->RemoveFile(fd); }

 private:
  void Add(IoRequest request) override;
  // To the BlockIo.
  void Start(std::unique_ptr<IoRequest> request, Begun::iterator begun);

  BlockIo* const io_;
  const uint32_t depth_;

  mutable base::Mutex mutex_;
  base::CondVar changed_;
  IoQueue queue_ ABSL_GUARDED_BY(mutex_);
  Begun begun_ ABSL_GUARDED_BY(mutex_);  // in their order
  uint32_t in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t under_way_ ABSL_GUARDED_BY(mutex_) = 0;  // until their Done has run
};

}  // namespace varve::tier
