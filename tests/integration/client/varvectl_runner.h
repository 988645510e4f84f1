// Runs varvectl as its users do, in a folder of the test's own.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"

namespace varve::client {

struct Outcome {
  int code = -1;
  std::string out, err;
};

class VarvectlRunner : public ::testing::Test {
 protected:
  VarvectlRunner() {
    std::string name = (std::filesystem::temp_directory_path() / "varvectl-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  ~VarvectlRunner() override { std::filesystem::remove_all(folder_); }

  std::string File(const std::string& name) const { return (folder_ / name).string(); }
  static std::string Read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(File(name), std::ios::binary) << bytes;
  }

  // prefix: of the command, such as "timeout 2".
  Outcome RunAt(const std::string& address, const std::string& arguments,
                const std::string& prefix = "") const {
    const std::string command =
        absl::StrCat("VARVE_STORE=", address, " ", prefix, " ", VARVECTL, " ", arguments, " >",
                     File("stdout"), " 2>", File("stderr"));
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Read(File("stdout")),
            Read(File("stderr"))};
  }
  static std::string Namespace() {
    return ::testing::UnitTest::GetInstance()->current_test_info()->name();
  }
  // One line, whatever happened.
  static void ExpectOneLine(const std::string& text) {
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
    EXPECT_THAT(text, ::testing::StartsWith("varvectl: "));
  }

  std::filesystem::path folder_;
};

}  // namespace varve::client
