// What a replay found, for people, machines and a browser.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "client/bench/trace_replay.h"
#include "nlohmann/json.hpp"

namespace varve::client {

// Hit ratio over time, bytes by cause and latencies, as text tables.
std::string ReplayTables(const ReplayOptions& options, const ReplayResult& result);
nlohmann::json ReplayJson(const ReplayOptions& options, const ReplayResult& result);
// Hit ratio over the trace's time, as an SVG drawing.
std::string ReplayPlot(const ReplayResult& result);

}  // namespace varve::client
