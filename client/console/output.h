// Standard output of command line tools.
#pragma once

#include "absl/status/status.h"

namespace varve::console {

// Writes out what is buffered. DATA_LOSS when that, or an earlier write, failed: results that did
// not arrive must not look like success.
absl::Status FlushOutput();

}  // namespace varve::console
