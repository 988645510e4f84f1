// Standard output of command line tools.
#pragma once

#include "absl/status/status.h"

namespace varve::console {

// Writes out what is buffered. The errno of a full disk or a closed pipe, of earlier writes too:
// results that did not arrive must not look like success.
absl::Status FlushOutput();

}  // namespace varve::console
