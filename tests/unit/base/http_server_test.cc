#include "kvstore/base/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace varve::base {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// A connection that has sent these bytes, or -1; answers are waited for 15 s each.
int Open(int port, const std::string& request) {
  const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval patience{15, 0};
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  if (connect(descriptor, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0 &&
      send(descriptor, request.data(), request.size(), MSG_NOSIGNAL) > 0) {
    return descriptor;
  }
  close(descriptor);
  return -1;
}

// The whole response to the bytes sent.
std::string Send(int port, const std::string& request) {
  const int descriptor = Open(port, request);
  std::string response;
  if (descriptor >= 0) {
    char buffer[4096];
    for (ssize_t n; (n = recv(descriptor, buffer, sizeof(buffer), 0)) > 0;) {
      response.append(buffer, static_cast<size_t>(n));
    }
  }
  close(descriptor);
  return response;
}

std::string Get(int port, const std::string& target) {
  return Send(port, "GET " + target + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
}

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = HttpServer::Start(
        "127.0.0.1:0",
        {{"/", [](const std::string&) { return HttpResponse{.body = "root"}; }},
         {"/query", [](const std::string& q) { return HttpResponse{.body = "[" + q + "]"}; }},
         {"/down", [](const std::string&) { return HttpResponse{.code = 503, .body = "down"}; }},
         {"/large",
          [](const std::string&) { return HttpResponse{.body = std::string(3 << 20, 'x')}; }}});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ASSERT_GT(server_->port(), 0);
  }
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, AnswersItsPathsOnly) {
  EXPECT_THAT(Get(server_->port(), "/"), HasSubstr("\r\n\r\nroot"));
  EXPECT_THAT(Get(server_->port(), "/query?a=1&b=2"), HasSubstr("[a=1&b=2]"));
  EXPECT_THAT(Get(server_->port(), "/query"), HasSubstr("[]"));
  EXPECT_THAT(Get(server_->port(), "/down"), StartsWith("HTTP/1.1 503 "));
  EXPECT_THAT(Get(server_->port(), "/query/deeper"), StartsWith("HTTP/1.1 404 "));
  EXPECT_THAT(Get(server_->port(), "/nothing"), StartsWith("HTTP/1.1 404 "));
  EXPECT_GT(Get(server_->port(), "/large").size(), size_t{3} << 20);
}

TEST_F(HttpServerTest, OtherMethodsAndGarbageDoNoHarm) {
  EXPECT_THAT(Send(server_->port(),
                   "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
              StartsWith("HTTP/1.1 405 "));
  Send(server_->port(), "\x01\x02 garbage\r\n\r\n");
  Send(server_->port(), "GET /" + std::string(100000, 'a') + " HTTP/1.1\r\n\r\n");
  EXPECT_THAT(Get(server_->port(), "/../../etc/passwd"), Not(HasSubstr("root:x:")));
  EXPECT_THAT(Get(server_->port(), "/"), HasSubstr("root"));
}

TEST_F(HttpServerTest, ManyAtOnce) {
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i)
        good += Get(server_->port(), "/").find("root") != std::string::npos;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 160);
}

TEST_F(HttpServerTest, HalfOpenRequestsDoNotHoldUpAProbe) {
  std::vector<int> half_open;
  for (int i = 0; i < 100; ++i) {
    half_open.push_back(Open(server_->port(), "GET / HTTP/1.1\r\nHost: "));
    ASSERT_GE(half_open.back(), 0) << i;
  }
  // Two seconds for the first of them, if all threads are taken; never one after the other.
  EXPECT_THAT(Get(server_->port(), "/"), HasSubstr("root"));
  for (const int descriptor : half_open) close(descriptor);
}

TEST_F(HttpServerTest, AnAddressInUseIsAnError) {
  const auto second = HttpServer::Start("127.0.0.1:" + std::to_string(server_->port()), {});
  EXPECT_TRUE(absl::IsUnavailable(second.status()));
  EXPECT_THAT(
      std::string(second.status().message()),
      AllOf(HasSubstr(std::to_string(server_->port())), HasSubstr("the address is in use")));
  EXPECT_FALSE(HttpServer::Start("no such host:0", {}).ok());
}

}  // namespace
}  // namespace varve::base
