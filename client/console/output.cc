#include "client/console/output.h"

#include <cstdio>
#include <iostream>

namespace varve::console {

absl::Status FlushOutput() {
  std::cout.flush();
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0 && std::cout.good())
    return absl::OkStatus();
  return absl::DataLossError(
      "not all of the output could be written: a full disk, or nobody who reads it");
}

}  // namespace varve::console
