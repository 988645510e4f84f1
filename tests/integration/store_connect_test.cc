// Where a store listens, and what a client hears that it does not let in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "client/process/child_process.h"
#include "tests/integration/store_harness.h"
#include "tests/support/listening_sockets.h"

namespace varve::testing {
namespace {

namespace v1 = varve::v1;
using ::testing::HasSubstr;

void ExpectLoopbackOnly(const StoreProcess& store, size_t at_least) {
  const std::vector<ListeningSocket> sockets = ListeningSockets(store.pid());
  EXPECT_GE(sockets.size(), at_least);
  for (const ListeningSocket& socket : sockets) {
    EXPECT_TRUE(socket.loopback) << socket.host << ":" << socket.port;
  }
}

TEST(StoreConnectTest, DefaultsAreReachableFromThisHostOnly) {
  auto store = StoreUnderTest::Start("tcp");
  ExpectLoopbackOnly(*store->process(), 3);  // gRPC, HTTP, UCX
  // Each session over tcp has a port of its own.
  RawClient client(*store);
  ASSERT_TRUE(client.open_status().ok()) << client.open_status().error_message();
  Buffer buffer = client.Allocate(4096);
  EXPECT_EQ(client.PutOne(Key("a"), buffer, 0, 4096).result(), v1::PUT_RESULT_STORED);
  EXPECT_TRUE(client.GetOne(Key("a"), buffer, 0, 4096).hit());
  ExpectLoopbackOnly(*store->process(), 4);
}

TEST(StoreConnectTest, AStoreOnAUnixSocketListensOnLoopbackOnly) {
  const std::string path = absl::StrCat(::testing::TempDir(), "varve-ports-", getpid());
  auto store = StoreProcess::Start({absl::StrCat("--listen=unix:", path), "--http_listen="});
  ASSERT_TRUE(store.ok()) << store.status();
  ExpectLoopbackOnly(**store, 1);
  unlink(path.c_str());
}

TEST(StoreConnectTest, ForOthersItListensOnEveryDeviceOrThoseNamed) {
  const auto outside = [](const std::vector<std::string>& flags) {
    auto store = StoreProcess::Start(flags);
    EXPECT_TRUE(store.ok()) << store.status();
    size_t count = 0;
    for (const auto& socket : ListeningSockets((*store)->pid())) count += socket.loopback ? 0 : 1;
    return count;
  };
  EXPECT_EQ(outside({"--listen=0.0.0.0:0", "--transport.devices=lo"}), 1u);  // gRPC
  EXPECT_GE(outside({"--listen=0.0.0.0:0"}), 1u);
}

TEST(StoreConnectTest, PortsOfTheRangeAreUsedAndMissedWithAReason) {
  const int first = 25000 + getpid() % 5000;
  auto store = StoreUnderTest::Start(
      "tcp", {absl::StrCat("--transport.tcp_port_range=", first, "-", first + 7)});
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<RawClient>(*store));
    if (!clients.back()->open_status().ok()) break;
  }
  int inside = 0;
  for (const auto& socket : ListeningSockets(store->process()->pid())) {
    inside += socket.port >= first && socket.port <= first + 7 ? 1 : 0;
  }
  EXPECT_GE(inside, 2);
  EXPECT_EQ(ListeningSockets(store->process()->pid()).size(), inside + 2u);  // gRPC and HTTP
  const grpc::Status refused = clients.back()->open_status();
  EXPECT_EQ(refused.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("no free port in transport.tcp_port_range"));
  // Those inside go on.
  Buffer buffer = clients.front()->Allocate(4096);
  EXPECT_EQ(clients.front()->PutOne(Key("a"), buffer, 0, 4096).result(), v1::PUT_RESULT_STORED);
  EXPECT_FALSE(StoreProcess::Start({"--transport.tcp_port_range=20000"}).ok());
}

// A transport in name only: the store connects to the process whose address it is.
class BorrowedAddress final : public transport::Transport {
 public:
  explicit BorrowedAddress(std::string address) : address_(std::move(address)) {}
  const char* name() const override { return "borrowed"; }
  std::string Address() const override { return address_; }
  absl::StatusOr<std::unique_ptr<transport::Region>> Register(std::span<std::byte>) override {
    return absl::UnimplementedError("");
  }
  absl::StatusOr<std::unique_ptr<transport::Region>> Allocate(size_t) override {
    return absl::UnimplementedError("");
  }

 private:
  absl::StatusOr<std::unique_ptr<transport::Endpoint>> DoConnect(const std::string&,
                                                                 absl::Duration) override {
    return absl::UnimplementedError("");
  }
  const std::string address_;
};

// As behind a firewall: the store gives up before the client does, and says why.
TEST(StoreConnectTest, AClientThatCannotBeReachedHearsSo) {
  auto store = StoreUnderTest::Start("tcp");
  const auto peer = client::ChildProcess::Start(
      {.binary = VARVE_TRANSPORT_PEER, .args = {"serve", "tcp"}, .wait_ready = false});
  ASSERT_TRUE(peer.ok()) << peer.status();
  const auto line = (*peer)->ReadLine(absl::Seconds(20));
  ASSERT_TRUE(line.ok()) << line.status();
  BorrowedAddress transport(absl::HexStringToBytes(*line));
  (*peer)->Signal(SIGSTOP);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>((*peer)->pid()), &info, WSTOPPED);
  client::ClientOptions options;
  options.connect_timeout = absl::Seconds(2);  // less than the transport's own limit
  const auto client = client::Client::Connect(store->MakeChannel(), &transport, options);
  (*peer)->Signal(SIGKILL);
  EXPECT_EQ(client.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(client.status().message()),
              HasSubstr("transport_address: peer did not answer over tcp within"));
}

TEST(StoreConnectTest, AClientWithoutALaneInCommonHearsBothSides) {
  auto store = StoreUnderTest::Start("tcp");
  client::ClientOptions options;
  options.address = store->process()->grpc_address();
  options.lanes = {"shm"};
  const auto client = client::Client::Connect(options);
  EXPECT_EQ(client.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(client.status().message()),
              HasSubstr("no lane in common: here tcp, at the peer shm"));
}

}  // namespace
}  // namespace varve::testing
