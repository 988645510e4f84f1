#include "kvstore/base/html.h"

#include <gtest/gtest.h>

namespace varve::base {
namespace {

TEST(EscapeHtml, LeavesNothingThatABrowserWouldRead) {
  EXPECT_EQ(EscapeHtml("<a href='x'>&\"\n\x80"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;??");
  EXPECT_EQ(EscapeHtml(""), "");
}

}  // namespace
}  // namespace varve::base
