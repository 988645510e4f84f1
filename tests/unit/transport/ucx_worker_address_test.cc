#include "kvstore/transport/ucx_worker_address.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <memory>
#include <random>
#include <string>

#include "kvstore/transport/ucx.h"

namespace varve::transport {
namespace {

std::unique_ptr<Transport> Make(const std::string& lane) {
  UcxOptions options;
  options.lanes = {lane};
  if (lane == "tcp") options.devices = {"lo"};
  // Enough for those that answer. UCX 1.13 may end a process whose peer goes while it says that it
  // is connected, which is not the matter here (docs/operations.md).
  options.connect_timeout = absl::Seconds(2);
  auto transport = MakeUcxTransport(options);
  return transport.ok() ? *std::move(transport) : nullptr;
}

class WorkerAddressTest : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Lanes, WorkerAddressTest, ::testing::Values("shm", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

constexpr size_t kIdEnd = 9;      // a header, the id
constexpr size_t kPortBytes = 2;  // at the end of a tcp address

// The address of a transport in a process of its own, which lives until this one ends. What a peer
// of ours suffers from our comings and goings is not the matter here.
std::string AddressOfAnotherProcess(const std::string& lane) {
  int ends[2];
  if (pipe(ends) != 0) _exit(2);
  if (fork() == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const auto client = Make(lane);
    const std::string address = client == nullptr ? "" : client->Address();
    [[maybe_unused]] const ssize_t written = write(ends[1], address.data(), address.size());
    for (;;) pause();
  }
  char bytes[4096];
  const ssize_t n = read(ends[0], bytes, sizeof(bytes));
  return n > 0 ? std::string(bytes, static_cast<size_t>(n)) : "";
}

// Connects to damaged addresses under a good seal; an abort of UCX ends the process. Exits with 0
// when it got through.
void ConnectToDamaged(const std::string& lane, int tries) {
  const auto good = DecodeAddress(AddressOfAnotherProcess(lane));
  const auto store = Make(lane);
  if (store == nullptr || !good.ok()) _exit(2);
  std::mt19937 random(20261121);
  int refused = 0;
  for (int i = 0; i < tries; ++i) {
    UcxAddress damaged = *good;
    std::string& worker = damaged.lanes[0].worker;
    for (uint32_t flips = 1 + random() % 4; flips > 0; --flips) {
      // Not its id, nor where it listens: nobody can check those but the peer, and UCX may abort
      // over a lie (docs/operations.md).
      const size_t at = kIdEnd + random() % (worker.size() - kIdEnd - kPortBytes);
      worker[at] = static_cast<char>(random());
    }
    if (random() % 20 == 0) worker[0] = static_cast<char>(random());
    if (random() % 10 == 0) worker.resize(1 + random() % worker.size());
    const auto endpoint = store->Connect(Encode(damaged));
    if (absl::IsInvalidArgument(endpoint.status())) ++refused;
  }
  // What is left is harmless: other costs of a device, another network namespace, or the very same
  // bytes.
  if (refused < tries / 4) _exit(3);
  // A good address still serves; the lane may be busy closing what the damaged ones left.
  for (int i = 0; i < 5; ++i) {
    if (store->Connect(Make(lane)->Address()).ok()) _exit(0);
  }
  _exit(4);
}

// Before addresses were checked, one of the first twelve ended the process on either lane. Seed
// 20261121.
TEST_P(WorkerAddressTest, DamageDoesNotEndTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(ConnectToDamaged(GetParam(), 2000), ::testing::ExitedWithCode(0), "");
}

TEST_P(WorkerAddressTest, EveryByteIsReadAndNoMore) {
  const auto transport = Make(GetParam());
  ASSERT_NE(transport, nullptr);
  const std::string good = DecodeAddress(transport->Address())->lanes[0].worker;
  const auto parsed = ParseWorkerAddress(good);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_FALSE(parsed->entries.empty());
  for (size_t n = 0; n < good.size(); ++n)
    EXPECT_FALSE(ParseWorkerAddress(good.substr(0, n)).ok()) << n;
  EXPECT_FALSE(ParseWorkerAddress(good + "x").ok());
  for (int version = 1; version < 16; ++version) {
    std::string other = good;
    other[0] = static_cast<char>((other[0] & 0xf0) | version);
    EXPECT_FALSE(ParseWorkerAddress(other).ok()) << version;
  }
}

TEST_P(WorkerAddressTest, AnotherWorkersAddressOfTheSameKindIsGood) {
  const auto ours = Make(GetParam()), theirs = Make(GetParam());
  const auto own = DecodeAddress(ours->Address()), peer = DecodeAddress(theirs->Address());
  const LaneKind lane = own->lanes[0].kind;
  const std::string& mine = own->lanes[0].worker;
  const std::string& other = peer->lanes[0].worker;
  EXPECT_TRUE(CheckWorkerAddress(lane, mine, other, peer->pid).ok());
  EXPECT_EQ(CheckWorkerAddress(lane, mine, mine, peer->pid).code(),
            absl::StatusCode::kInvalidArgument);
  // Over shared memory UCX would open what another process has.
  EXPECT_EQ(CheckWorkerAddress(lane, mine, other, peer->pid + 1).ok(), lane != LaneKind::kShm);
}

TEST_P(WorkerAddressTest, OfAnotherVersionOfUcxIsRefused) {
  const auto ours = Make(GetParam()), theirs = Make(GetParam());
  UcxAddress address = *DecodeAddress(theirs->Address());
  EXPECT_EQ(address.ucx_version, UcxVersion());
  address.ucx_version += 1;
  EXPECT_EQ(ours->Connect(Encode(address)).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace varve::transport
