#include "client/bench/trace.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/console/file_io.h"
#include "kvstore/base/status.h"
#include "nlohmann/json.hpp"

namespace varve::client {
namespace {

using nlohmann::json;

constexpr double kLargestMilliseconds = 1e12;
// A million blocks: prompts of 512 million tokens.
constexpr size_t kMaxLineBytes = 16 << 20;

absl::StatusOr<double> Milliseconds(const json& line) {
  const auto found = line.find("timestamp");
  const double value = found != line.end() && found->is_number() ? found->get<double>() : -1;
  if (value >= 0 && value <= kLargestMilliseconds) return value;
  return absl::InvalidArgumentError("'timestamp' has to be milliseconds, 0 to 1e12");
}

absl::StatusOr<uint32_t> Tokens(const json& line, const char* field) {
  const auto found = line.find(field);
  if (found != line.end() && found->is_number_unsigned() &&
      found->get<uint64_t>() <= std::numeric_limits<uint32_t>::max()) {
    return found->get<uint32_t>();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", field, "' has to be tokens, 0 to 4294967295"));
}

class Parser {
 public:
  absl::Status Add(absl::string_view text) {
    if (absl::StripAsciiWhitespace(text).empty()) return absl::OkStatus();
    const json line = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
    if (!line.is_object()) return absl::InvalidArgumentError("not a JSON object");
    TraceRequest request;
    VARVE_ASSIGN_OR_RETURN(const double milliseconds, Milliseconds(line));
    request.arrival_seconds = milliseconds / 1000;
    VARVE_ASSIGN_OR_RETURN(request.input_tokens, Tokens(line, "input_length"));
    VARVE_ASSIGN_OR_RETURN(request.output_tokens, Tokens(line, "output_length"));
    const auto ids = line.find("hash_ids");
    if (ids == line.end() || !ids->is_array()) {
      return absl::InvalidArgumentError("'hash_ids' has to be a list of whole numbers");
    }
    for (const json& id : *ids) {
      if (!id.is_number_unsigned()) {
        return absl::InvalidArgumentError("'hash_ids' has to be a list of whole numbers");
      }
      const auto next = static_cast<uint32_t>(numbers_.size());
      request.blocks.push_back(numbers_.try_emplace(id.get<uint64_t>(), next).first->second);
    }
    trace_.references += request.blocks.size();
    trace_.requests.push_back(std::move(request));
    return absl::OkStatus();
  }

  absl::StatusOr<Trace> Finish() && {
    if (trace_.references == 0) return absl::InvalidArgumentError("no request has any blocks");
    trace_.distinct_blocks = static_cast<uint32_t>(numbers_.size());
    std::stable_sort(trace_.requests.begin(), trace_.requests.end(),
                     [](const TraceRequest& a, const TraceRequest& b) {
                       return a.arrival_seconds < b.arrival_seconds;
                     });
    return std::move(trace_);
  }

 private:
  Trace trace_;
  absl::flat_hash_map<uint64_t, uint32_t> numbers_;
};

}  // namespace

absl::StatusOr<Trace> ParseTrace(absl::string_view text) {
  Parser parser;
  size_t number = 0;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    VARVE_RETURN_IF_ERROR(base::Annotate(parser.Add(line), absl::StrCat("line ", number)));
  }
  return std::move(parser).Finish();
}

absl::StatusOr<Trace> ReadTrace(const std::string& path) {
  Parser parser;
  VARVE_RETURN_IF_ERROR(console::ReadLines(
      path, kMaxLineBytes, [&parser](absl::string_view line) { return parser.Add(line); }));
  absl::StatusOr<Trace> trace = std::move(parser).Finish();
  if (!trace.ok()) return base::Annotate(trace.status(), path);
  return trace;
}

}  // namespace varve::client
