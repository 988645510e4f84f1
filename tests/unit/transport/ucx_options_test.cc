// What MakeUcxTransport refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <functional>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "kvstore/transport/port_range.h"
#include "kvstore/transport/ucx.h"
#include "tests/support/listening_sockets.h"

namespace varve::transport {
namespace {

using ::testing::HasSubstr;
using varve::testing::ListeningSocket;
using varve::testing::ListeningSockets;

// The first of them; below the ports that the system hands out by itself.
uint16_t TwoFreePorts() {
  auto first = static_cast<uint16_t>(20000 + getpid() % 5000);
  const auto taken = [](uint16_t port) { return !CheckFreePort({port, port}).ok(); };
  while (taken(first) || taken(static_cast<uint16_t>(first + 1))) ++first;
  return first;
}

absl::Status Make(const std::function<void(UcxOptions&)>& change) {
  UcxOptions options;
  options.lanes = {"shm"};
  change(options);
  return MakeUcxTransport(options).status();
}

TEST(UcxOptionsTest, RefusesWhatItDoesNotKnow) {
  const absl::Status lane = Make([](UcxOptions& o) { o.lanes = {"shm", "avian"}; });
  EXPECT_EQ(lane.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(lane.message()), HasSubstr("'avian', known: shm, tcp, rdma"));
  EXPECT_EQ(Make([](UcxOptions& o) { o.lanes = {}; }).code(), absl::StatusCode::kInvalidArgument);
  const absl::Status twice = Make([](UcxOptions& o) { o.lanes = {"shm", "tcp", "shm"}; });
  EXPECT_EQ(twice.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(twice.message()), HasSubstr("lane shm twice"));
  const absl::Status device = Make([](UcxOptions& o) { o.devices = {"nosuch0"}; });
  EXPECT_EQ(device.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(device.message()), HasSubstr("nosuch0"));
  EXPECT_EQ(Make([](UcxOptions& o) { o.segment_bytes = 4095; }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Make([](UcxOptions& o) { o.segment_bytes = (64 << 20) + 1; }).code(),
            absl::StatusCode::kInvalidArgument);
  const absl::Status range = Make([](UcxOptions& o) { o.tcp_port_range = "20000"; });
  EXPECT_EQ(range.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(range.message()),
              HasSubstr("'20000' is not allowed; two ports within 1-65535"));
  EXPECT_EQ(Make([](UcxOptions& o) { o.keepalive = absl::ZeroDuration(); }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Make([](UcxOptions& o) { o.connect_timeout = -absl::Seconds(1); }).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(Make([](UcxOptions&) {}).ok());
}

TEST(UcxOptionsTest, LeavesOutLanesWithoutADevice) {
  UcxOptions options;
  options.lanes = {"rdma", "tcp"};
  options.devices = {"lo"};
  ::testing::internal::CaptureStderr();
  const auto transport = MakeUcxTransport(options);
  // A machine without RDMA is nothing to warn about.
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  ASSERT_TRUE(transport.ok()) << transport.status();
  const auto endpoint = (*transport)->Connect((*transport)->Address());
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_STREQ((*endpoint)->lane(), "tcp");
}

TEST(UcxOptionsTest, TcpKeepsToItsPortsAndSaysWhenNoneIsLeft) {
  const uint16_t first = TwoFreePorts();
  UcxOptions options, any;
  options.lanes = any.lanes = {"tcp"};
  options.devices = any.devices = {"lo"};
  options.tcp_port_range = absl::StrCat(first, "-", first + 1);
  std::set<uint16_t> before;
  for (const auto& socket : ListeningSockets(getpid())) before.insert(socket.port);
  const auto store = MakeUcxTransport(options);
  ASSERT_TRUE(store.ok()) << store.status();
  const auto client = MakeUcxTransport(any);
  const auto endpoint = (*store)->Connect((*client)->Address());
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  // Its own and the connection's; the client's is elsewhere.
  int inside = 0;
  for (const auto& socket : ListeningSockets(getpid())) {
    EXPECT_TRUE(socket.loopback) << socket.host << ":" << socket.port;
    if (!before.contains(socket.port)) inside += socket.port == first || socket.port == first + 1;
  }
  EXPECT_EQ(inside, 2);
  // UCX by itself would look for a port for ever.
  const absl::Status full = (*store)->Connect((*client)->Address()).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(full.message()), HasSubstr("no free port in transport.tcp_port_range"));
  EXPECT_EQ(MakeUcxTransport(options).status().code(), absl::StatusCode::kUnavailable);
}

TEST(UcxOptionsTest, TcpOfThisHostOnlyUsesLoopbackDevices) {
  UcxOptions options;
  options.lanes = {"tcp"};
  options.tcp_this_host_only = true;
  const auto transport = MakeUcxTransport(options);
  ASSERT_TRUE(transport.ok()) << transport.status();
  const std::vector<ListeningSocket> sockets = ListeningSockets(getpid());
  EXPECT_FALSE(sockets.empty());
  for (const auto& socket : sockets)
    EXPECT_TRUE(socket.loopback) << socket.host << ":" << socket.port;
}

TEST(UcxOptionsTest, PrefersItsOwnFirstLaneThatThePeerOffers) {
  UcxOptions both, tcp, shm;
  both.lanes = {"shm", "tcp"};
  tcp.lanes = {"tcp"};
  shm.lanes = {"shm"};
  both.devices = tcp.devices = {"lo"};
  const auto a = MakeUcxTransport(both), b = MakeUcxTransport(both), c = MakeUcxTransport(tcp),
             d = MakeUcxTransport(shm);
  EXPECT_STREQ((*(*a)->Connect((*b)->Address()))->lane(), "shm");
  EXPECT_STREQ((*(*a)->Connect((*c)->Address()))->lane(), "tcp");
  const absl::Status apart = (*c)->Connect((*d)->Address()).status();
  EXPECT_EQ(apart.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(apart.message(), "no lane in common: here tcp, at the peer shm");
}

}  // namespace
}  // namespace varve::transport
