#include "kvstore/base/log.h"

#include <regex>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace varve::base {
namespace {

using ::testing::HasSubstr;
using ::testing::internal::CaptureStderr;
using ::testing::internal::GetCapturedStderr;

class LogTest : public ::testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(SetLogLevel("info").ok()); }
};

TEST_F(LogTest, LineHasTimeLevelThreadAndText) {
  ASSERT_TRUE(SetLogLevel("info").ok());
  CaptureStderr();
  LogWarning("session ", 7, " lost");
  const std::string line = GetCapturedStderr();
  EXPECT_TRUE(std::regex_match(
      line, std::regex(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} W \d+ session 7 lost\n)")))
      << line;
}

TEST_F(LogTest, LevelsBelowTheChosenOneAreSilent) {
  const char* names[] = {"debug", "info", "warning", "error", "off"};
  for (int chosen = 0; chosen < 5; ++chosen) {
    SCOPED_TRACE(names[chosen]);
    ASSERT_TRUE(SetLogLevel(names[chosen]).ok());
    CaptureStderr();
    LogDebug("line-0");
    LogInfo("line-1");
    LogWarning("line-2");
    LogError("line-3");
    const std::string text = GetCapturedStderr();
    for (int level = 0; level < 4; ++level) {
      EXPECT_EQ(text.find("line-" + std::to_string(level)) != std::string::npos, level >= chosen)
          << text;
    }
  }
}

TEST_F(LogTest, PercentAndBracesAreText) {
  CaptureStderr();
  LogError("100 %s {} {0}");
  EXPECT_THAT(GetCapturedStderr(), HasSubstr("100 %s {} {0}"));
}

TEST_F(LogTest, UnknownLevelListsTheAllowedOnesAndChangesNothing) {
  ASSERT_TRUE(SetLogLevel("warning").ok());
  const absl::Status status = SetLogLevel("loud");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("'loud', allowed: debug, info, warning, error, off"));
  EXPECT_FALSE(LogEnabled(LogLevel::kInfo));
  EXPECT_TRUE(LogEnabled(LogLevel::kWarning));
}

}  // namespace
}  // namespace varve::base
