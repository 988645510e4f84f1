// Peers that die, stall, come and go: two real processes, on each UCX lane of this machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "client/process/child_process.h"
#include "kvstore/transport/ucx.h"
#include "kvstore/transport/ucx_protocol.h"
#include "tests/contract/transport/await.h"

namespace varve::transport {
namespace {

using client::ChildProcess;
using ::testing::Each;

constexpr size_t kBytes = 8 << 20;  // of each region of the peer
// Sanitizers hold freed memory back.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kGrowthAllowed = 256 << 20;
#else
constexpr size_t kGrowthAllowed = 4 << 20;
#endif

constexpr int kKilled = 128 + SIGKILL;  // as ChildProcess::Wait has it

std::unique_ptr<ChildProcess> StartPeer(const std::vector<std::string>& args) {
  auto child =
      ChildProcess::Start({.binary = VARVE_TRANSPORT_PEER, .args = args, .wait_ready = false});
  EXPECT_TRUE(child.ok()) << child.status();
  return *std::move(child);
}

std::string LineOf(ChildProcess& child) { return child.ReadLine(absl::Seconds(20)).value_or(""); }
int ExitOf(ChildProcess& child) { return child.Wait(absl::Seconds(20)).value_or(-1); }

// SIGSTOP, and waits until it has stopped.
void Stop(ChildProcess& child) {
  child.Signal(SIGSTOP);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(child.pid()), &info, WSTOPPED);
}

size_t CountEntries(const std::string& directory) {
  using Iterator = std::filesystem::directory_iterator;
  return static_cast<size_t>(std::distance(Iterator(directory), Iterator()));
}
size_t CountFds(pid_t pid) { return CountEntries(absl::StrCat("/proc/", pid, "/fd")); }
size_t CountThreads(pid_t pid) { return CountEntries(absl::StrCat("/proc/", pid, "/task")); }

size_t ResidentBytes(pid_t pid) {
  std::ifstream statm(absl::StrCat("/proc/", pid, "/statm"));
  size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

// A client process and the store's connection to it.
struct Peer {
  explicit Peer(const std::string& lane) : process(StartPeer({"serve", lane})), child(*process) {
    address = absl::HexStringToBytes(LineOf(child));
    registered = absl::HexStringToBytes(LineOf(child));
    allocated = absl::HexStringToBytes(LineOf(child));
  }
  // A test leaves nothing to end in good order.
  ~Peer() { child.Signal(SIGKILL); }
  void Connect(Transport& store) {
    auto connected = store.Connect(address);
    ASSERT_TRUE(connected.ok()) << connected.status();
    endpoint = *std::move(connected);
    remotes.clear();
    for (const std::string& descriptor : {registered, allocated}) {
      auto remote = endpoint->Import(descriptor);
      ASSERT_TRUE(remote.ok()) << remote.status();
      remotes.push_back(*std::move(remote));
    }
  }
  // The endpoint first: its transfers may still use the remote regions.
  void Disconnect() {
    endpoint.reset();
    remotes.clear();
  }

  std::unique_ptr<ChildProcess> process;
  ChildProcess& child;
  std::string address, registered, allocated;
  std::unique_ptr<Endpoint> endpoint;
  std::vector<std::unique_ptr<RemoteRegion>> remotes;  // registered, allocated
};

std::unique_ptr<Transport> MakeStore(const std::string& lane) {
  UcxOptions options;
  options.lanes = {lane};
  if (lane == "tcp") options.devices = {"lo"};
  options.keepalive = absl::Milliseconds(100);
  auto transport = MakeUcxTransport(options);
  EXPECT_TRUE(transport.ok()) << transport.status();
  return *std::move(transport);
}

// Polls until a condition holds; false after 20 s.
bool Eventually(const std::function<bool()>& condition) {
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > end) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

class DeathTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    store_ = MakeStore(GetParam());
    bystander_ = std::make_unique<Peer>(GetParam());
    bystander_->Connect(*store_);
  }
  void TearDown() override { bystander_->Disconnect(); }

  void ExpectBystanderWorks() {
    std::vector<std::byte> out(300'000, static_cast<std::byte>(++pattern_)), in(out.size());
    for (const auto& remote : bystander_->remotes) {
      const absl::Status wrote = WriteAll(*bystander_->endpoint, {{out, remote.get(), 1000}});
      const absl::Status read = ReadAll(*bystander_->endpoint, {{in, remote.get(), 1000}});
      EXPECT_TRUE(wrote.ok()) << wrote;
      EXPECT_TRUE(read.ok()) << read;
      EXPECT_EQ(in, out);
    }
  }

  std::unique_ptr<Transport> store_;
  std::unique_ptr<Peer> bystander_;
  std::vector<std::byte> local_ = std::vector<std::byte>(kBytes);
  int pattern_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Lanes, DeathTest, ::testing::Values("shm", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(DeathTest, KilledInMidTransfer) {
  size_t fds = 0, threads = 0;
  for (int round = 0; round < 22; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    Peer victim(GetParam());
    ASSERT_NO_FATAL_FAILURE(victim.Connect(*store_));
    Results results;
    for (int i = 0; i < 40; ++i) {
      // Posted on the way, so that the death finds transfers in every stage.
      if (i == 2 + round) victim.child.Signal(SIGKILL);
      const std::vector<Segment> all = {{local_, victim.remotes[i % 4 == 3 ? 1 : 0].get(), 0}};
      const absl::Time deadline = In(absl::Seconds(60));
      i % 2 == 0 ? victim.endpoint->Read(all, deadline, results.Next())
                 : victim.endpoint->Write(all, deadline, results.Next());
    }
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.runs(), Each(1));
    for (const absl::Status& status : results.statuses()) {
      EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kUnavailable) << status;
    }
    EXPECT_TRUE(Eventually(
        [&] { return victim.endpoint->Health().code() == absl::StatusCode::kUnavailable; }));
    EXPECT_EQ(WriteAll(*victim.endpoint, {{local_, victim.remotes[0].get(), 0}}).code(),
              absl::StatusCode::kUnavailable);
    EXPECT_EQ(ReadAll(*victim.endpoint, {{local_, victim.remotes[1].get(), 0}}).code(),
              absl::StatusCode::kUnavailable);
    EXPECT_EQ(ExitOf(victim.child), kKilled);
    victim.Disconnect();
    ExpectBystanderWorks();
    // The first rounds fill caches.
    if (round == 1) fds = CountFds(getpid()), threads = CountThreads(getpid());
    if (round > 1) {
      EXPECT_TRUE(Eventually([&] { return CountFds(getpid()) <= fds; }))
          << CountFds(getpid()) << " > " << fds;
      EXPECT_TRUE(Eventually([&] { return CountThreads(getpid()) <= threads; }))
          << CountThreads(getpid()) << " > " << threads;
    }
  }
}

TEST_P(DeathTest, KilledWhileIdleIsNoticed) {
  for (int round = 0; round < 3; ++round) {
    Peer victim(GetParam());
    ASSERT_NO_FATAL_FAILURE(victim.Connect(*store_));
    victim.child.Signal(SIGKILL);
    EXPECT_TRUE(Eventually(
        [&] { return victim.endpoint->Health().code() == absl::StatusCode::kUnavailable; }));
    victim.Disconnect();
  }
  ExpectBystanderWorks();
}

TEST_P(DeathTest, ConnectingToTheDeadFails) {
  Peer victim(GetParam());
  victim.child.Signal(SIGKILL);
  ASSERT_EQ(ExitOf(victim.child), kKilled);
  EXPECT_EQ(store_->Connect(victim.address).status().code(), absl::StatusCode::kUnavailable);
  ExpectBystanderWorks();
}

TEST_P(DeathTest, KilledWhileConnecting) {
  for (int round = 0; round < 40; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    Peer victim(GetParam());
    std::thread killer([&] {
      // Busy, so that the deaths spread over the few milliseconds that connecting takes.
      const absl::Time end = In(absl::Microseconds(100 * round));
      while (absl::Now() < end) {
      }
      victim.child.Signal(SIGKILL);
    });
    const auto connected = store_->Connect(victim.address);
    killer.join();
    if (!connected.ok()) {
      EXPECT_EQ(connected.status().code(), absl::StatusCode::kUnavailable) << connected.status();
    }
  }
  ExpectBystanderWorks();
}

TEST_P(DeathTest, AStoppedPeerRunsOutOfTime) {
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    Peer victim(GetParam());
    ASSERT_NO_FATAL_FAILURE(victim.Connect(*store_));
    Stop(victim.child);
    Results results;
    const std::vector<Segment> all = {{local_, victim.remotes[0].get(), 0}};
    victim.endpoint->Read(all, In(absl::Milliseconds(200)), results.Next());
    victim.endpoint->Write(all, In(absl::Seconds(60)), results.Next());
    victim.endpoint->Read(all, In(absl::Seconds(60)), results.Next());
    const absl::Time start = absl::Now();
    ASSERT_TRUE(results.Wait());
    EXPECT_LT(absl::Now() - start, absl::Seconds(20));
    EXPECT_EQ(results.statuses()[0].code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(results.statuses()[1].code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(results.statuses()[2].code(), absl::StatusCode::kCancelled);
    EXPECT_FALSE(WriteAll(*victim.endpoint, all).ok());
    ExpectBystanderWorks();

    // Back to life: what it still sends must not reach local memory after Done.
    std::fill(local_.begin(), local_.end(), std::byte{0x5a});
    victim.child.Signal(SIGCONT);
    victim.Disconnect();
    ASSERT_NO_FATAL_FAILURE(victim.Connect(*store_));
    std::vector<std::byte> other(100'000);
    EXPECT_TRUE(ReadAll(*victim.endpoint, {{other, victim.remotes[0].get(), 0}}).ok());
    EXPECT_EQ(std::count(local_.begin(), local_.end(), std::byte{0x5a}),
              static_cast<ptrdiff_t>(local_.size()));
    victim.Disconnect();
    victim.child.Signal(SIGTERM);
    EXPECT_EQ(ExitOf(victim.child), 0);
  }
}

// About 1 of 30 such rounds over shm used to hang for good, until the peer went on: the odds here
// are about even.
TEST_P(DeathTest, StoppedInMidTransfer) {
  for (int round = 0; round < 24; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    Peer victim(GetParam());
    ASSERT_NO_FATAL_FAILURE(victim.Connect(*store_));
    Results results;
    for (int i = 0; i < 20; ++i) {
      if (i == 2 + round * 5 % 18) {
        // Busy, so that the stops spread over the stages of a transfer.
        const absl::Time end = In(absl::Microseconds(37 * (round * 21 % 100)));
        while (absl::Now() < end) {
        }
        Stop(victim.child);
      }
      const std::vector<Segment> all = {{local_, victim.remotes[0].get(), 0}};
      const absl::Time deadline = In(absl::Milliseconds(150));
      round % 4 == 0 ? victim.endpoint->Read(all, deadline, results.Next())
                     : victim.endpoint->Write(all, deadline, results.Next());
    }
    const bool done = results.Wait(absl::Seconds(10));
    if (!done) victim.child.Signal(SIGCONT);  // lets the test end
    ASSERT_TRUE(done);
    EXPECT_THAT(results.runs(), Each(1));
    victim.Disconnect();
    std::fill(local_.begin(), local_.end(), std::byte{0x5a});
    victim.child.Signal(SIGCONT);
    ExpectBystanderWorks();
    EXPECT_EQ(std::count(local_.begin(), local_.end(), std::byte{0x5a}),
              static_cast<ptrdiff_t>(local_.size()));
  }
}

TEST_P(DeathTest, AStoppedPeerCanBeLeftBehind) {
  Peer victim(GetParam());
  ASSERT_NO_FATAL_FAILURE(victim.Connect(*store_));
  Stop(victim.child);
  Results results;
  victim.endpoint->Read({{local_, victim.remotes[0].get(), 0}}, absl::InfiniteFuture(),
                        results.Next());
  victim.Disconnect();
  EXPECT_THAT(results.runs(), Each(1));
  EXPECT_EQ(results.statuses()[0].code(), absl::StatusCode::kCancelled);
  victim.child.Signal(SIGCONT);
  victim.child.Signal(SIGTERM);
  EXPECT_EQ(ExitOf(victim.child), 0);
}

TEST_P(DeathTest, ComingAndGoingLeaksNothing) {
  Peer peer(GetParam());
  const pid_t pids[] = {getpid(), peer.child.pid()};
  size_t fds[2] = {}, threads[2] = {}, resident[2] = {};
  std::vector<std::byte> bytes(20'000);
  for (int round = 0; round < 220; ++round) {
    ASSERT_NO_FATAL_FAILURE(peer.Connect(*store_));
    ASSERT_TRUE(WriteAll(*peer.endpoint, {{bytes, peer.remotes[round % 2].get(), 0}}).ok());
    peer.Disconnect();
    for (int i = 0; round == 19 && i < 2; ++i) {
      fds[i] = CountFds(pids[i]), threads[i] = CountThreads(pids[i]),
      resident[i] = ResidentBytes(pids[i]);
    }
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(Eventually([&] { return CountFds(pids[i]) <= fds[i] + 2; }))
        << CountFds(pids[i]) << " > " << fds[i];
    EXPECT_TRUE(Eventually([&] { return CountThreads(pids[i]) <= threads[i]; }))
        << CountThreads(pids[i]) << " > " << threads[i];
    EXPECT_LT(ResidentBytes(pids[i]), resident[i] + kGrowthAllowed);
  }
  ExpectBystanderWorks();
}

TEST_P(DeathTest, AClientOutlivesItsStores) {
  size_t fds = 0, threads = 0;
  for (int round = 0; round < 12; ++round) {
    SCOPED_TRACE(absl::StrCat("round ", round));
    auto client = MakeStore(GetParam());
    std::vector<std::byte> memory(kBytes);
    auto region = client->Register(memory);
    ASSERT_TRUE(region.ok());
    const auto driver = StartPeer({"drive", GetParam(), absl::BytesToHexString(client->Address()),
                                   absl::BytesToHexString((*region)->descriptor())});
    ASSERT_EQ(LineOf(*driver), "go");
    if (round % 2 == 0) {
      driver->Signal(SIGKILL);
    } else {
      Stop(*driver);
    }
    const absl::Time start = absl::Now();
    region->reset();
    client.reset();
    EXPECT_LT(absl::Now() - start, absl::Seconds(15));
    driver->Signal(SIGKILL);
    ASSERT_EQ(ExitOf(*driver), kKilled);
    if (round == 2) fds = CountFds(getpid()), threads = CountThreads(getpid());
    if (round > 2) {
      EXPECT_TRUE(Eventually([&] { return CountFds(getpid()) <= fds; }))
          << CountFds(getpid()) << " > " << fds;
      EXPECT_TRUE(Eventually([&] { return CountThreads(getpid()) <= threads; }))
          << CountThreads(getpid()) << " > " << threads;
    }
  }
}

TEST(ConnectTest, ASilentLaneLeavesTimeForTheNext) {
  UcxOptions options;
  options.lanes = {"shm", "tcp"};
  options.devices = {"lo"};
  const auto store = MakeUcxTransport(options);
  ASSERT_TRUE(store.ok()) << store.status();
  Peer silent("shm");
  Stop(silent.child);
  const auto live = MakeStore("tcp");
  auto address = DecodeAddress(silent.address);
  const auto other = DecodeAddress(live->Address());
  ASSERT_TRUE(address.ok() && other.ok());
  address->lanes.push_back(other->lanes[0]);
  const auto endpoint = (*store)->Connect(Encode(*address), absl::Seconds(4));
  silent.child.Signal(SIGCONT);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_STREQ((*endpoint)->lane(), "tcp");
}

}  // namespace
}  // namespace varve::transport
