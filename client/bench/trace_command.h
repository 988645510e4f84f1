// varve-bench trace: what a cache makes of a recorded trace.
#pragma once

#include <memory>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "client/bench/bench.h"

namespace varve::client {

class TraceCommand {
 public:
  // Adds the subcommand and its flags. CLI::ValidationError for wrong ones while app parses.
  explicit TraceCommand(CLI::App& app);
  ~TraceCommand();
  // Prints tables, or one JSON document. INVALID_ARGUMENT and NOT_FOUND are about file and flags.
  absl::Status Run(const BenchOptions& bench);

 private:
  struct Options;
  std::unique_ptr<Options> options_;
};

}  // namespace varve::client
