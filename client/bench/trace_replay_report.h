// What a replay found, for people, machines and a browser.
#pragma once

#include <string>

#include "client/bench/trace_replay.h"
#include "nlohmann/json.hpp"

namespace varve::client {

// The store that was started, in words, and as fields beside those of ReplayJson.
std::string StoreText(const TraceStoreOptions& store);
nlohmann::json StoreJson(const TraceStoreOptions& store);
// Hit ratio by tier over time, bytes by cause and latencies, as text tables.
std::string ReplayTables(const ReplayOptions& options, const ReplayResult& result);
nlohmann::json ReplayJson(const ReplayOptions& options, const ReplayResult& result);
// Hit ratio by tier over the trace's time, as an SVG drawing.
std::string ReplayPlot(const ReplayResult& result);

}  // namespace varve::client
