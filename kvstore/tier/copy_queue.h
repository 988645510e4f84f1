// Copies to and from a device's memory, in the order in which they were asked for, by one thread:
// up to DeviceMemory::kMaxCopies are under way at a time, so that the device need not wait for it.
//
// Threads: Write and Read from any thread, also from a Done.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/device_memory.h"
#include "kvstore/tier/tier.h"

namespace varve::tier {

class CopyQueue {
 public:
  // memory outlives the queue and is used by nobody else.
  explicit CopyQueue(DeviceMemory* memory) : memory_(memory), thread_([this] { Loop(); }) {}
  // Waits until all that was asked for is done.
  ~CopyQueue();
  CopyQueue(const CopyQueue&) = delete;
  CopyQueue& operator=(const CopyQueue&) = delete;

  // Return at once; done runs on the queue's thread when the copy has ended, with the device's
  // error if it has failed. REQUIRES: the range is inside the device's memory.
  void Write(uint64_t offset, std::span<const std::byte> from, Tier::Done done);
  void Read(uint64_t offset, std::span<std::byte> to, Tier::Done done);

 private:
  struct Copy {
    bool write = false;
    uint64_t offset = 0;
    std::byte* host = nullptr;  // only read where `write`
    size_t bytes = 0;
    Tier::Done done;
  };

  void Add(Copy copy);
  void Loop();
  // As many of those that wait as may be started; waits when there is nothing to do. Empty with
  // nothing under way: the end.
  std::vector<Copy> Next();
  void Start(Copy copy);
  void EndOldest();

  DeviceMemory* const memory_;
  base::Mutex mutex_;
  base::CondVar wake_;
  std::deque<Copy> waiting_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Tier::Done> under_way_;  // oldest first; of the thread
  std::thread thread_;
};

}  // namespace varve::tier
