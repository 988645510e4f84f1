#include "kvstore/transport/port_range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace varve::transport {
namespace {

using ::testing::HasSubstr;

TEST(PortRangeTest, ParsesTwoPortsInOrder) {
  const auto range = ParsePortRange("20000-20100");
  ASSERT_TRUE(range.ok()) << range.status();
  EXPECT_EQ(range->first, 20000);
  EXPECT_EQ(range->last, 20100);
  EXPECT_FALSE(range->any());
  EXPECT_TRUE(ParsePortRange("1-65535").ok());
  EXPECT_TRUE(ParsePortRange("7-7").ok());
  EXPECT_TRUE(ParsePortRange("")->any());
  for (const char* bad :
       {"20000", "20000-", "-20000", "-", "0-1", "0", "20100-20000", "20000-65536", "1-2-3", " 1-2",
        "1 - 2", "+1-2", "a-b", "0x10-0x20", "99999999999-99999999999"}) {
    const absl::Status status = ParsePortRange(bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("such as 20000-20100")) << bad;
  }
}

TEST(PortRangeTest, ATakenPortIsNotFree) {
  const int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(address);
  ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), bytes), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  ASSERT_EQ(getsockname(taken, reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  const uint16_t port = ntohs(address.sin_port);
  EXPECT_EQ(CheckFreePort({port, port}).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(CheckFreePort({1024, 65535}).ok());
  close(taken);
  EXPECT_TRUE(CheckFreePort({port, port}).ok());
}

TEST(PortRangeTest, NoDescriptorsIsNotNoPorts) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = CheckFreePort({1024, 65535});
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_THAT(std::string(status.message()), HasSubstr("Too many open files"));
}

}  // namespace
}  // namespace varve::transport
