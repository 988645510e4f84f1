// A file of settings, as text: YAML, one map.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::base {

// The whole of it. INVALID_ARGUMENT for one that is empty, too large, no text, or cannot be read.
absl::StatusOr<std::string> ReadConfigText(const std::string& path);

// By path; the items of a list joined with commas. What is wrong with a setting goes into problems;
// INVALID_ARGUMENT for what is no YAML, or no map.
absl::Status ReadSettings(const std::string& text, std::map<std::string, std::string>& values,
                          std::vector<std::string>& problems);

}  // namespace varve::base
