// Whole files into memory, plain and gzip.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace varve::console {

// NOT_FOUND when the file cannot be opened, DATA_LOSS when it cannot be read to its end; the
// message names the path.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// The decompressed content. DATA_LOSS for a file that is cut short or fails its checksum, and,
// unless it may be plain, for one that is no gzip file.
enum class Plain { kRefused, kTaken };
absl::StatusOr<std::string> ReadGzipFile(const std::string& path, Plain plain = Plain::kRefused);

}  // namespace varve::console
