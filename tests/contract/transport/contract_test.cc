// One suite over every transport: the suite is the contract of kvstore/transport/transport.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kvstore/transport/fault.h"
#include "kvstore/transport/loopback.h"
#include "kvstore/transport/transport.h"
#include "kvstore/transport/ucx.h"
#include "tests/contract/transport/await.h"

namespace varve::transport {
namespace {

using ::testing::Each;

struct Kind {
  std::string name;
  std::string lane;
  std::function<std::unique_ptr<Transport>()> make;
};
void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

std::unique_ptr<Transport> MakeUcx(const std::string& lane) {
  UcxOptions options;
  options.lanes = {lane};
  if (lane == "tcp") options.devices = {"lo"};
  auto transport = MakeUcxTransport(options);
  return transport.ok() ? *std::move(transport) : nullptr;
}

std::vector<Kind> Kinds() {
  return {
      {"loopback", "loopback", [] { return MakeLoopbackTransport(); }},
      {"ucx_shm", "shm", [] { return MakeUcx("shm"); }},
      {"ucx_tcp", "tcp", [] { return MakeUcx("tcp"); }},
      {"fault_loopback", "loopback", [] { return MakeFaultTransport(MakeLoopbackTransport(), {}); }},
      {"fault_ucx_shm", "shm", [] { return MakeFaultTransport(MakeUcx("shm"), {}); }},
  };
}

// Copies, and counts what it copied.
class CountingCopier final : public Copier {
 public:
  void Copy(void* to, const void* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
    copied_ += bytes;
  }
  size_t TakeCopied() { return std::exchange(copied_, 0); }

 private:
  size_t copied_ = 0;
};

enum class Memory { kRegistered, kAllocated };

// A store's transport, a client's, and a connection between them.
class ContractTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    store_ = GetParam().make();
    client_ = GetParam().make();
    ASSERT_NE(store_, nullptr);
    ASSERT_NE(client_, nullptr);
  }

  std::unique_ptr<Endpoint> Connect() { return ConnectTo(*client_); }
  std::unique_ptr<Endpoint> ConnectTo(const Transport& peer) {
    auto endpoint = store_->Connect(peer.Address());
    EXPECT_TRUE(endpoint.ok()) << endpoint.status();
    return endpoint.ok() ? *std::move(endpoint) : nullptr;
  }

  // Client memory of a size. Registered memory is backed by `buffers_`.
  std::unique_ptr<Region> MakeRegion(Memory memory, size_t bytes) {
    auto region = [&]() -> absl::StatusOr<std::unique_ptr<Region>> {
      if (memory == Memory::kAllocated) return client_->Allocate(bytes);
      buffers_.push_back(std::make_unique<std::vector<std::byte>>(bytes));
      return client_->Register(*buffers_.back());
    }();
    EXPECT_TRUE(region.ok()) << region.status();
    return *std::move(region);
  }

  static std::unique_ptr<RemoteRegion> Import(Endpoint& endpoint, const Region& region) {
    auto remote = endpoint.Import(region.descriptor());
    EXPECT_TRUE(remote.ok()) << remote.status();
    return *std::move(remote);
  }

  std::vector<std::byte> RandomBytes(size_t n) {
    std::vector<std::byte> bytes(n);
    for (auto& b : bytes) b = static_cast<std::byte>(random_());
    return bytes;
  }

  std::mt19937 random_{20261121};
  std::vector<std::unique_ptr<std::vector<std::byte>>> buffers_;
  std::unique_ptr<Transport> store_;
  std::unique_ptr<Transport> client_;
};

INSTANTIATE_TEST_SUITE_P(Transports, ContractTest, ::testing::ValuesIn(Kinds()),
                         [](const auto& info) { return info.param.name; });

TEST_P(ContractTest, MovesEverySizeBothWays) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  EXPECT_STREQ(endpoint->lane(), GetParam().lane.c_str());
  for (Memory memory : {Memory::kRegistered, Memory::kAllocated}) {
    const auto region = MakeRegion(memory, (16 << 20) + 64);
    const auto remote = Import(*endpoint, *region);
    EXPECT_EQ(remote->bytes(), region->memory().size());
    for (size_t size : {size_t{1}, size_t{7}, size_t{64}, size_t{4096}, size_t{4097}, size_t{16384}, size_t{32768},
                        size_t{32769}, size_t{65535}, size_t{262144}, size_t{262145}, size_t{1} << 20,
                        (size_t{1} << 20) + 3, size_t{16} << 20}) {
      const size_t offset = random_() % 63;
      SCOPED_TRACE(absl::StrCat("seed 20261121, size ", size, " at ", offset, ", memory ", static_cast<int>(memory)));
      std::vector<std::byte> sent = RandomBytes(size);
      ASSERT_TRUE(WriteAll(*endpoint, {{sent, remote.get(), offset}}).ok());
      ASSERT_EQ(std::memcmp(region->memory().data() + offset, sent.data(), size), 0);
      std::vector<std::byte> got(size);
      ASSERT_TRUE(ReadAll(*endpoint, {{got, remote.get(), offset}}).ok());
      ASSERT_EQ(got, sent);
    }
  }
}

TEST_P(ContractTest, AllocatedMemoryStartsZeroed) {
  const auto region = MakeRegion(Memory::kAllocated, 100'000);
  EXPECT_THAT(region->memory(), Each(std::byte{0}));
}

TEST_P(ContractTest, MovesManySegmentsOfMixedSizesAndRegions) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  const auto registered = MakeRegion(Memory::kRegistered, 8 << 20);
  const auto allocated = MakeRegion(Memory::kAllocated, 8 << 20);
  const auto remote_registered = Import(*endpoint, *registered);
  const auto remote_allocated = Import(*endpoint, *allocated);
  for (int round = 0; round < 5; ++round) {
    SCOPED_TRACE(absl::StrCat("seed 20261121, round ", round));
    std::vector<std::vector<std::byte>> out, in;
    std::vector<Segment> writes, reads;
    CountingCopier copier;
    size_t with_copier = 0;
    size_t at = 0;
    while (at < (7 << 20)) {
      const size_t size = 1 + random_() % (random_() % 8 == 0 ? 600'000 : 20'000);
      out.push_back(RandomBytes(size));
      in.emplace_back(size);
      at += size + random_() % 100;
    }
    at = 0;
    for (size_t i = 0; i < out.size() && at + out[i].size() <= (8 << 20); ++i) {
      const RemoteRegion* remote = i % 3 == 0 ? remote_registered.get() : remote_allocated.get();
      Copier* const own = i % 2 == 0 ? &copier : nullptr;
      if (own != nullptr && remote->way() != RemoteRegion::Way::kDirect) with_copier += out[i].size();
      writes.push_back({out[i], remote, at, own});
      reads.push_back({in[i], remote, at, own});
      at += out[i].size();
    }
    ASSERT_TRUE(WriteAll(*endpoint, writes).ok());
    EXPECT_EQ(copier.TakeCopied(), with_copier);
    ASSERT_TRUE(ReadAll(*endpoint, reads).ok());
    EXPECT_EQ(copier.TakeCopied(), with_copier);
    for (size_t i = 0; i < reads.size(); ++i) ASSERT_EQ(in[i], out[i]) << "segment " << i;
  }
}

TEST_P(ContractTest, EmptyTransfersSucceed) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  const auto region = MakeRegion(Memory::kRegistered, 64);
  const auto remote = Import(*endpoint, *region);
  EXPECT_TRUE(WriteAll(*endpoint, {}).ok());
  EXPECT_TRUE(ReadAll(*endpoint, {{{}, remote.get(), 64}}).ok());
}

TEST_P(ContractTest, ManyTransfersInFlightEndOnce) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  for (Memory memory : {Memory::kRegistered, Memory::kAllocated}) {
    constexpr size_t kSize = 20'000;
    const auto region = MakeRegion(memory, 200 * kSize);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> sent = RandomBytes(200 * kSize);
    Results results;
    for (size_t i = 0; i < 200; ++i) {
      endpoint->Write({{std::span(sent).subspan(i * kSize, kSize), remote.get(), i * kSize}}, In(absl::Seconds(30)),
                      results.Next());
    }
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.statuses(), Each(absl::OkStatus()));
    EXPECT_THAT(results.runs(), Each(1));
    EXPECT_EQ(std::memcmp(region->memory().data(), sent.data(), sent.size()), 0);
  }
}

TEST_P(ContractTest, ConcurrentEndpoints) {
  constexpr int kThreads = 8;
  std::vector<std::thread> threads;
  std::vector<std::string> failures(kThreads);
  const auto region = MakeRegion(Memory::kRegistered, kThreads * 300'000);
  const auto allocated = MakeRegion(Memory::kAllocated, kThreads * 300'000);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      auto endpoint = store_->Connect(client_->Address());
      if (!endpoint.ok()) {
        failures[t] = endpoint.status().ToString();
        return;
      }
      auto remote = (*endpoint)->Import(t % 2 == 0 ? region->descriptor() : allocated->descriptor());
      for (int i = 0; i < 20 && failures[t].empty(); ++i) {
        std::vector<std::byte> out(1 + random() % 300'000), in(out.size());
        for (auto& b : out) b = static_cast<std::byte>(random());
        const size_t at = t * 300'000;
        const absl::Status wrote = WriteAll(**endpoint, {{out, remote->get(), at}});
        const absl::Status read = ReadAll(**endpoint, {{in, remote->get(), at}});
        if (!wrote.ok() || !read.ok()) failures[t] = absl::StrCat(wrote.ToString(), " ", read.ToString());
        if (in != out) failures[t] += " bytes differ";
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(failures, Each(""));
}

TEST_P(ContractTest, OutOfRangeMovesNothing) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  const auto region = MakeRegion(Memory::kRegistered, 1000);
  const auto remote = Import(*endpoint, *region);
  std::vector<std::byte> local = RandomBytes(600);
  const std::vector<std::pair<size_t, size_t>> bad = {{401, 600}, {1000, 1}, {1001, 0}, {SIZE_MAX, 2}, {SIZE_MAX - 1, 600}};
  for (const auto& [offset, size] : bad) {
    SCOPED_TRACE(absl::StrCat(size, " bytes at ", offset));
    const std::span<std::byte> piece(local.data(), size);
    // A good segment before the bad one must not be moved either.
    const absl::Status wrote = WriteAll(*endpoint, {{local, remote.get(), 0}, {piece, remote.get(), offset}});
    EXPECT_EQ(wrote.code(), absl::StatusCode::kOutOfRange) << wrote;
    EXPECT_EQ(ReadAll(*endpoint, {{piece, remote.get(), offset}}).code(), absl::StatusCode::kOutOfRange);
  }
  EXPECT_THAT(region->memory(), Each(std::byte{0}));
  EXPECT_EQ(WriteAll(*endpoint, {{local, nullptr, 0}}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(WriteAll(*endpoint, {{local, remote.get(), 400}}).ok());
}

TEST_P(ContractTest, RefusesMemoryOfNoSize) {
  EXPECT_EQ(client_->Register({}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(client_->Allocate(0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(ContractTest, RefusesDamagedAddresses) {
  const std::string good = client_->Address();
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_EQ(store_->Connect(good.substr(0, n)).status().code(), absl::StatusCode::kInvalidArgument) << n;
  }
  for (int i = 0; i < 2000; ++i) {
    SCOPED_TRACE(absl::StrCat("seed 20261121, mutation ", i));
    std::string bad = good;
    bad[random_() % bad.size()] ^= static_cast<char>(1 + random_() % 255);
    ASSERT_EQ(store_->Connect(bad).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(store_->Connect(good + "x").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(Connect(), nullptr);
}

TEST_P(ContractTest, RefusesDamagedAndForeignDescriptors) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  const auto region = MakeRegion(Memory::kAllocated, 5000);
  const std::string good = region->descriptor();
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_EQ(endpoint->Import(good.substr(0, n)).status().code(), absl::StatusCode::kInvalidArgument) << n;
  }
  for (int i = 0; i < 2000; ++i) {
    SCOPED_TRACE(absl::StrCat("seed 20261121, mutation ", i));
    std::string bad = good;
    bad[random_() % bad.size()] ^= static_cast<char>(1 + random_() % 255);
    ASSERT_EQ(endpoint->Import(bad).status().code(), absl::StatusCode::kInvalidArgument);
  }
  const auto other = GetParam().make();
  const auto foreign = other->Allocate(5000);
  ASSERT_TRUE(foreign.ok());
  EXPECT_EQ(endpoint->Import((*foreign)->descriptor()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(endpoint->Import(client_->Address()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(endpoint->Import(good).ok());
}

TEST_P(ContractTest, UnregisteredMemoryIsNotTouched) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  std::vector<std::byte> memory(100'000), local = RandomBytes(100'000);
  auto region = client_->Register(memory);
  ASSERT_TRUE(region.ok());
  const auto remote = Import(*endpoint, **region);
  region->reset();
  for (size_t size : {size_t{100}, size_t{100'000}}) {
    const std::span<std::byte> piece(local.data(), size);
    EXPECT_EQ(WriteAll(*endpoint, {{piece, remote.get(), 0}}).code(), absl::StatusCode::kUnavailable);
    EXPECT_EQ(ReadAll(*endpoint, {{piece, remote.get(), 0}}).code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_THAT(memory, Each(std::byte{0}));
  EXPECT_TRUE(endpoint->Health().ok());
}

TEST_P(ContractTest, UnregisteringWaitsForTransfersUnderWay) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  for (int round = 0; round < 20; ++round) {
    auto memory = std::make_unique<std::vector<std::byte>>(2 << 20);
    std::vector<std::byte> local(2 << 20);
    auto region = client_->Register(*memory);
    ASSERT_TRUE(region.ok());
    const auto remote = Import(*endpoint, **region);
    Results results;
    for (int i = 0; i < 8; ++i) {
      endpoint->Write({{local, remote.get(), 0}}, In(absl::Seconds(30)), results.Next());
      endpoint->Read({{local, remote.get(), 0}}, In(absl::Seconds(30)), results.Next());
    }
    region->reset();
    memory.reset();  // a late access would be seen by AddressSanitizer
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.runs(), Each(1));
  }
}

TEST_P(ContractTest, CloseEndsOutstandingTransfers) {
  for (Memory memory : {Memory::kRegistered, Memory::kAllocated}) {
    const auto endpoint = Connect();
    ASSERT_NE(endpoint, nullptr);
    const auto region = MakeRegion(memory, 4 << 20);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local(4 << 20);
    Results results;
    std::thread poster([&] {
      for (int i = 0; i < 60; ++i) {
        auto post = i % 2 == 0 ? &Endpoint::Write : &Endpoint::Read;
        (endpoint.get()->*post)({{local, remote.get(), 0}}, In(absl::Seconds(30)), results.Next());
        if (i == 20) endpoint->Close();
      }
    });
    poster.join();
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.runs(), Each(1));
    for (const absl::Status& status : results.statuses()) {
      EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kCancelled) << status;
    }
    EXPECT_EQ(WriteAll(*endpoint, {{local, remote.get(), 0}}).code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(endpoint->Health().code(), absl::StatusCode::kCancelled);
  }
}

TEST_P(ContractTest, NothingBeginsAfterClose) {
  for (int round = 0; round < 20; ++round) {
    const auto endpoint = Connect();
    ASSERT_NE(endpoint, nullptr);
    const auto region = MakeRegion(Memory::kAllocated, 4096);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local(4096, std::byte{1});
    endpoint->Close();
    EXPECT_EQ(endpoint->Health().code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(WriteAll(*endpoint, {{local, remote.get(), 0}}).code(), absl::StatusCode::kCancelled);
    EXPECT_THAT(region->memory(), Each(std::byte{0}));
  }
}

TEST_P(ContractTest, DestructorWaitsForEveryDone) {
  for (int round = 0; round < 20; ++round) {
    auto endpoint = Connect();
    ASSERT_NE(endpoint, nullptr);
    const auto region = MakeRegion(Memory::kRegistered, 1 << 20);
    auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local(1 << 20);
    Results results;
    for (int i = 0; i < 10; ++i) endpoint->Read({{local, remote.get(), 0}}, In(absl::Seconds(30)), results.Next());
    endpoint.reset();
    EXPECT_THAT(results.runs(), Each(1));
    remote.reset();
  }
}

TEST_P(ContractTest, DoneMayPostAndClose) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  for (Memory memory : {Memory::kRegistered, Memory::kAllocated}) {
    const auto region = MakeRegion(memory, 1000);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local(1000);
    Results results;
    int left = 2'000;
    std::function<void(absl::Status)> next = [&, last = std::make_shared<Done>(results.Next())](absl::Status status) {
      if (!status.ok() || --left == 0) return std::move (*last)(status);
      endpoint->Write({{local, remote.get(), 0}}, In(absl::Seconds(60)), next);
    };
    next(absl::OkStatus());
    ASSERT_TRUE(results.Wait());
    EXPECT_THAT(results.statuses(), Each(absl::OkStatus()));
    EXPECT_EQ(left, 0);
  }
  const auto region = MakeRegion(Memory::kRegistered, 1000);
  const auto remote = Import(*endpoint, *region);
  std::vector<std::byte> local(1000);
  Results results;
  endpoint->Write({{local, remote.get(), 0}}, In(absl::Seconds(30)), [&, done = results.Next()](auto status) mutable {
    endpoint->Close();
    std::move(done)(status);
  });
  ASSERT_TRUE(results.Wait());
  EXPECT_EQ(WriteAll(*endpoint, {{local, remote.get(), 0}}).code(), absl::StatusCode::kCancelled);
}

TEST_P(ContractTest, ADeadlineInThePastMovesNothing) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  for (Memory memory : {Memory::kRegistered, Memory::kAllocated}) {
    const auto region = MakeRegion(memory, 1000);
    const auto remote = Import(*endpoint, *region);
    std::vector<std::byte> local = RandomBytes(1000);
    EXPECT_EQ(WriteAll(*endpoint, {{local, remote.get(), 0}}, -absl::Seconds(1)).code(),
              absl::StatusCode::kDeadlineExceeded);
    EXPECT_THAT(region->memory(), Each(std::byte{0}));
    Results results;
    endpoint->Write({{local, remote.get(), 0}}, absl::InfiniteFuture(), results.Next());
    EXPECT_TRUE(WaitFor(results).ok());
  }
}

// Sleeps in its first copy until a deadline is over.
class LateCopier final : public Copier {
 public:
  explicit LateCopier(absl::Time deadline) : deadline_(deadline) {}
  void Copy(void* to, const void* from, size_t bytes) override {
    absl::SleepFor(deadline_ - absl::Now() + absl::Milliseconds(1));
    std::memcpy(to, from, bytes);
  }

 private:
  const absl::Time deadline_;
};

TEST_P(ContractTest, ADeadlineHoldsForMappedMemoryToo) {
  const auto endpoint = Connect();
  const auto region = MakeRegion(Memory::kAllocated, 4 << 20);
  const auto remote = Import(*endpoint, *region);
  if (remote->way() != RemoteRegion::Way::kMapped) return;
  std::vector<std::byte> bytes(4 << 20, std::byte{1});
  const absl::Time deadline = In(absl::Seconds(1));
  LateCopier late(deadline);
  Results results;
  endpoint->Write({{bytes, remote.get(), 0, &late}}, deadline, results.Next());
  EXPECT_EQ(WaitFor(results).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(region->memory()[bytes.size() - 1], std::byte{0});
  EXPECT_FALSE(endpoint->Health().ok());
}

TEST_P(ContractTest, APeerThatWentAwayIsUnavailable) {
  const auto endpoint = Connect();
  ASSERT_NE(endpoint, nullptr);
  auto region = MakeRegion(Memory::kRegistered, 100'000);
  const auto remote = Import(*endpoint, *region);
  const std::string address = client_->Address();
  region.reset();
  client_.reset();
  std::vector<std::byte> local(100'000);
  const absl::Status status = WriteAll(*endpoint, {{local, remote.get(), 0}}, absl::Seconds(5));
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.code(), absl::StatusCode::kInternal) << status;
}

TEST_P(ContractTest, OneClientOfTwoStores) {
  const auto second = GetParam().make();
  const auto region = MakeRegion(Memory::kRegistered, 1 << 20);
  const auto first_endpoint = Connect();
  auto second_endpoint = second->Connect(client_->Address());
  ASSERT_TRUE(second_endpoint.ok()) << second_endpoint.status();
  std::vector<std::byte> sent = RandomBytes(1 << 20), got(1 << 20);
  const auto first_remote = Import(*first_endpoint, *region);
  const auto second_remote = Import(**second_endpoint, *region);
  ASSERT_TRUE(WriteAll(*first_endpoint, {{sent, first_remote.get(), 0}}).ok());
  ASSERT_TRUE(ReadAll(**second_endpoint, {{got, second_remote.get(), 0}}).ok());
  EXPECT_EQ(got, sent);
}

}  // namespace
}  // namespace varve::transport
