// Traces of block hashes: what an engine asked its cache for, request by request.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace varve::client {

// Prefix blocks of this many tokens, as in the Mooncake traces.
constexpr uint32_t kTraceBlockTokens = 512;

struct TraceRequest {
  double arrival_seconds = 0;  // since the trace began
  uint32_t input_tokens = 0;
  uint32_t output_tokens = 0;
  std::vector<uint32_t> blocks;  // of the prompt, in order: numbers in [0, Trace::distinct_blocks)
};

struct Trace {
  std::vector<TraceRequest> requests;  // by arrival
  uint32_t distinct_blocks = 0;
  uint64_t references = 0;
};

// JSON lines, each an object with `timestamp` (ms), `input_length`, `output_length` (tokens) and
// `hash_ids` (the prompt's consecutive blocks; equal ids are reusable KV). INVALID_ARGUMENT names
// the line and what is wrong with it.
absl::StatusOr<Trace> ParseTrace(absl::string_view text);
// The same from a file, gzip or not, with lines of at most 16 MiB; the message names it.
absl::StatusOr<Trace> ReadTrace(const std::string& path);

}  // namespace varve::client
