#include "kvstore/server/disk_stack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace varve::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(WarnBeyondFileSystemTest, OnlyOfWhatIsTooMuch) {
  const std::string path = ::testing::TempDir();
  ::testing::internal::CaptureStderr();
  WarnBeyondFileSystem(path, 4096);
  WarnBeyondFileSystem("/nosuch", 1ull << 60);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ::testing::internal::CaptureStderr();
  WarnBeyondFileSystem(path, 1ull << 60);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr(path + " is given 1.00 EiB"), HasSubstr("its file system has")));
}

}  // namespace
}  // namespace varve::server
