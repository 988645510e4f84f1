// Runs a program of this build to its end.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace varve::testing {

struct ToolResult {
  int exit_code = -1;
  std::string output;  // standard output
  std::string errors;  // standard error
};

// arguments: as in a shell.
ToolResult RunTool(const std::string& program, const std::string& arguments);
// The "results" of the JSON document that the program printed; a null value, with a test failure,
// when it did not.
nlohmann::json Results(const ToolResult& result);

}  // namespace varve::testing
