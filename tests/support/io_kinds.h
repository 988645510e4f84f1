// The ways to a disk that this machine has: containers often refuse io_uring. For tests.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <string>
#include <vector>

namespace varve::testing {

inline bool RefusesIoUring() {
  // Without parameters it fails in any case: how, says whether it looked at them.
  return syscall(SYS_io_uring_setup, 1, nullptr) < 0 && errno != EFAULT;
}

// "threads", and "io_uring" before it where the kernel takes it.
inline std::vector<std::string> IoKinds() {
  if (!RefusesIoUring()) return {"io_uring", "threads"};
  std::fputs("io_uring is refused here: tests of it run with threads alone, or say so\n", stderr);
  return {"threads"};
}

}  // namespace varve::testing
