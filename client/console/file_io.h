// Files, plain and gzip, whole or line by line.
#pragma once

#include <cstddef>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace varve::console {

// NOT_FOUND when the file cannot be opened, DATA_LOSS when it cannot be read to its end; the
// message names the path.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// The decompressed content. DATA_LOSS for a file that is cut short, fails its checksum, or is no
// gzip file.
absl::StatusOr<std::string> ReadGzipFile(const std::string& path);

// Calls fn for each line, without its end, of a file that is gzip or not, with little more of it in
// memory than one line. Errors are those above, INVALID_ARGUMENT for a line that is longer than
// max_line_bytes, and fn's, which end it; all name the path, the last two the line as well.
absl::Status ReadLines(const std::string& path, size_t max_line_bytes,
                       absl::FunctionRef<absl::Status(absl::string_view line)> fn);

}  // namespace varve::console
