#include "tests/integration/tools/run_tool.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "client/process/child_process.h"

namespace varve::testing {

ToolResult RunTool(const std::string& program, const std::string& arguments) {
  ToolResult result;
  const auto path = client::FindProgram(program);
  if (!path.ok()) {
    result.errors = std::string(path.status().message());
    return result;
  }
  const std::string errors =
      ::testing::TempDir() + "varve-tool-" + std::to_string(getpid()) + ".err";
  FILE* pipe = popen((*path + " " + arguments + " 2>" + errors).c_str(), "r");
  char chunk[4096];
  size_t got;
  while ((got = fread(chunk, 1, sizeof(chunk), pipe)) > 0) result.output.append(chunk, got);
  const int status = pclose(pipe);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  std::stringstream text;
  text << std::ifstream(errors).rdbuf();
  result.errors = text.str();
  std::filesystem::remove(errors);
  return result;
}

nlohmann::json Results(const ToolResult& result) {
  const auto document = nlohmann::json::parse(result.output, nullptr, false);
  if (result.exit_code != 0 || !document.is_object() || !document.contains("results")) {
    ADD_FAILURE() << "exit code " << result.exit_code << "\n"
                  << result.output << "\n"
                  << result.errors;
    return {};
  }
  return document["results"];
}

}  // namespace varve::testing
