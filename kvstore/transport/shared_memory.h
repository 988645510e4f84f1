// Memory that another process of this machine can map: a sealed memfd, reached through /proc.
//
// UCX could allocate and attach such memory too, but it trusts the key that the peer sends: a
// damaged one crashes the process that attaches, and one that names a larger size lets it write
// past the mapping. Here every word of the peer is checked, and the seal rules out that the peer
// shrinks the memory later (which would kill the reader with SIGBUS). Neither /dev/shm nor its size
// limit in containers matters. RAII, movable.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace varve::transport {

class SharedMemory {
 public:
  SharedMemory() = default;
  // New memory, zeroed and pre-faulted. RESOURCE_EXHAUSTED when the system has not that much.
  static absl::StatusOr<SharedMemory> Allocate(size_t bytes);
  // Maps what `key` of process `pid` names. INVALID_ARGUMENT when the key is malformed, its memory
  // is not one that Allocate made, not of this size, or not wholly present; UNAVAILABLE when it
  // cannot be opened.
  static absl::StatusOr<SharedMemory> Attach(pid_t pid, const std::string& key, size_t bytes);
  ~SharedMemory();
  SharedMemory(SharedMemory&& other) noexcept
      : memory_(std::exchange(other.memory_, {})),
        fd_(std::exchange(other.fd_, -1)),
        secret_(other.secret_) {}
  SharedMemory& operator=(SharedMemory&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(fd_, other.fd_);
    std::swap(secret_, other.secret_);
    return *this;
  }

  std::span<std::byte> span() const { return memory_; }
  // What a peer attaches by: opaque bytes, of use while this lives. Of allocated memory only.
  std::string Key() const;

 private:
  absl::Status Map(size_t bytes);

  std::span<std::byte> memory_;
  int fd_ = -1;
  // In the memfd's name: a peer can only name memory whose secret it was told.
  uint64_t secret_ = 0;
};

}  // namespace varve::transport
