#include "kvstore/base/path.h"

#include "gtest/gtest.h"

namespace varve::base {
namespace {

TEST(PlainPath, LeavesOutWhatSaysNothing) {
  for (const char* path : {"/a/b", "/a/b/", "/a//b", "//a/./b/.", "/./a/b///"}) {
    EXPECT_EQ(PlainPath(path), "/a/b") << path;
  }
  EXPECT_EQ(PlainPath("/"), "/");
  EXPECT_EQ(PlainPath("//"), "/");
  EXPECT_EQ(PlainPath(""), "");
  EXPECT_EQ(PlainPath("./a/"), "a");
  EXPECT_EQ(PlainPath("/a/../b"), "/a/../b");
  EXPECT_EQ(PlainPath("/a/..b/...#1"), "/a/..b/...#1");
}

}  // namespace
}  // namespace varve::base
