// The metrics of a store that runs on this machine.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace varve::client {

// Of a text exposition: values by series, name{label="value",...}.
std::map<std::string, double> ParseMetrics(const std::string& text);

// Values by series, as in the text exposition: name{label="value",...}, labels in alphabetical
// order. address: "127.0.0.1:7412". UNAVAILABLE when nothing answers there within 10 s.
absl::StatusOr<std::map<std::string, double>> ScrapeMetrics(const std::string& address);

}  // namespace varve::client
