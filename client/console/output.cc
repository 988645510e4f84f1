#include "client/console/output.h"

#include <cerrno>
#include <cstdio>
#include <iostream>

namespace varve::console {

absl::Status FlushOutput() {
  errno = 0;
  std::cout.flush();
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout.good()) return absl::OkStatus();
  return absl::ErrnoToStatus(errno != 0 ? errno : EIO, "standard output");
}

}  // namespace varve::console
