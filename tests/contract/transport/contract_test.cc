// One suite over every transport: the suite is the contract of kvstore/transport/transport.h.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/contract/transport/await.h"
#include "tests/contract/transport/contract.h"

namespace varve::transport {
namespace {

using ::testing::Each;
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
    for (size_t size : {size_t{1}, size_t{7}, size_t{64}, size_t{4096}, size_t{4097}, size_t{16384},
                        size_t{32768}, size_t{32769}, size_t{65535}, size_t{262144}, size_t{262145},
                        size_t{1} << 20, (size_t{1} << 20) + 3, size_t{16} << 20}) {
      const size_t offset = random_() % 63;
      SCOPED_TRACE(absl::StrCat("seed 20261121, size ", size, " at ", offset, ", memory ",
                                static_cast<int>(memory)));
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
      if (own != nullptr && remote->way() != RemoteRegion::Way::kDirect)
        with_copier += out[i].size();
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
      endpoint->Write({{std::span(sent).subspan(i * kSize, kSize), remote.get(), i * kSize}},
                      In(absl::Seconds(30)), results.Next());
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
      auto remote =
          (*endpoint)->Import(t % 2 == 0 ? region->descriptor() : allocated->descriptor());
      for (int i = 0; i < 20 && failures[t].empty(); ++i) {
        std::vector<std::byte> out(1 + random() % 300'000), in(out.size());
        for (auto& b : out) b = static_cast<std::byte>(random());
        const size_t at = t * 300'000;
        const absl::Status wrote = WriteAll(**endpoint, {{out, remote->get(), at}});
        const absl::Status read = ReadAll(**endpoint, {{in, remote->get(), at}});
        if (!wrote.ok() || !read.ok())
          failures[t] = absl::StrCat(wrote.ToString(), " ", read.ToString());
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
  const std::vector<std::pair<size_t, size_t>> bad = {
      {401, 600}, {1000, 1}, {1001, 0}, {SIZE_MAX, 2}, {SIZE_MAX - 1, 600}};
  for (const auto& [offset, size] : bad) {
    SCOPED_TRACE(absl::StrCat(size, " bytes at ", offset));
    const std::span<std::byte> piece(local.data(), size);
    // A good segment before the bad one must not be moved either.
    const absl::Status wrote =
        WriteAll(*endpoint, {{local, remote.get(), 0}, {piece, remote.get(), offset}});
    EXPECT_EQ(wrote.code(), absl::StatusCode::kOutOfRange) << wrote;
    EXPECT_EQ(ReadAll(*endpoint, {{piece, remote.get(), offset}}).code(),
              absl::StatusCode::kOutOfRange);
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
    EXPECT_EQ(store_->Connect(good.substr(0, n)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << n;
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
    EXPECT_EQ(endpoint->Import(good.substr(0, n)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << n;
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
  EXPECT_EQ(endpoint->Import((*foreign)->descriptor()).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(endpoint->Import(client_->Address()).status().code(),
            absl::StatusCode::kInvalidArgument);
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
    EXPECT_EQ(WriteAll(*endpoint, {{piece, remote.get(), 0}}).code(),
              absl::StatusCode::kUnavailable);
    EXPECT_EQ(ReadAll(*endpoint, {{piece, remote.get(), 0}}).code(),
              absl::StatusCode::kUnavailable);
  }
  EXPECT_THAT(memory, Each(std::byte{0}));
  EXPECT_TRUE(endpoint->Health().ok());
}
}  // namespace
}  // namespace varve::transport
