// Values into files, without a reader ever seeing half of one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace varve::varvectl {

// Writes `bytes` to `file`, following symbolic links. A regular file, or one that does not exist
// yet, is written beside its place and renamed over it, and keeps its mode and, where allowed, its
// owner. Anything else (a device, a pipe) is opened and written to as it is. `progress`: told how
// many bytes are written. FAILED_PRECONDITION with the reason of the system; a regular file is then
// as it was.
absl::Status WriteFile(const std::string& file, std::string_view bytes,
                       const std::function<void(uint64_t)>& progress);

}  // namespace varve::varvectl
