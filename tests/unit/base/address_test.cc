#include "kvstore/base/address.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

namespace varve::base {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Address, HasAForm) {
  for (const char* good : {"127.0.0.1:0", "varve-store:7411", "[::1]:65535", "unix:/tmp/s"})
    EXPECT_TRUE(IsAddress(good)) << good;
  for (const char* bad : {"", "foo", ":7411", "host:", "host:65536", "host:http", "unix:"})
    EXPECT_FALSE(IsAddress(bad)) << bad;
}

TEST(Address, IsOfThisHostOrNot) {
  for (const char* here :
       {"127.0.0.1:0", "127.1.2.3:1", "localhost:7411", "[::1]:7411", "unix:/tmp/s"})
    EXPECT_TRUE(IsOfThisHost(here)) << here;
  for (const char* far :
       {"0.0.0.0:0", "[::]:7411", "192.0.2.1:1", "varve-store:7411", "127.0.0.1.example.org:1"})
    EXPECT_FALSE(IsOfThisHost(far)) << far;
}

TEST(WhyNotBound, NamesTheReason) {
  const int taken = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(address);
  ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), bytes), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  ASSERT_EQ(getsockname(taken, reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  EXPECT_EQ(WhyNotBound("127.0.0.1:" + std::to_string(ntohs(address.sin_port))),
            "the address is in use");
  close(taken);
  EXPECT_EQ(WhyNotBound("198.51.100.77:0"), "the address is not one of this machine");
  EXPECT_THAT(WhyNotBound("no such host:0"), HasSubstr("'no such host'"));
  EXPECT_THAT(WhyNotBound("unix:/no/such/place/s"), HasSubstr("no directory /no/such/place"));
  EXPECT_THAT(WhyNotBound("unix:/tmp/" + std::string(200, 'x')),
              AllOf(HasSubstr("205 bytes"), HasSubstr("at most 107")));
  EXPECT_THAT(WhyNotBound("nothing"), HasSubstr("host:port or unix:PATH"));
}

}  // namespace
}  // namespace varve::base
