// varve-bench trace: what a cache makes of a recorded trace.
#pragma once

#include <memory>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"

namespace varve::client {

class TraceCommand {
 public:
  // Adds the subcommand and its flags. CLI::ValidationError for wrong ones while app parses.
  explicit TraceCommand(CLI::App& app);
  ~TraceCommand();
  // Prints a table, or one JSON document. INVALID_ARGUMENT and NOT_FOUND are about the file.
  absl::Status Run(bool json) const;

 private:
  struct Options;
  std::unique_ptr<Options> options_;
};

}  // namespace varve::client
