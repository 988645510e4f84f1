// A file descriptor that closes with its owner.
#pragma once

#include <unistd.h>

#include <utility>

namespace varve::base {

class Descriptor {
 public:
  // fd: what open() and its like returned; below 0 there is nothing to close.
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const { return fd_; }
  // To be closed by the caller.
  int Release() { return std::exchange(fd_, -1); }
  // False when what was written did not all arrive (errno says why).
  bool Close() { return close(Release()) == 0; }

 private:
  int fd_;
};

}  // namespace varve::base
