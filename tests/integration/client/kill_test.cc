// A store that promises nvme_sync is killed again and again in the middle of puts, gets and
// removals: what it has acknowledged is there afterwards, nothing else is, and no byte is wrong.
// When it is killed is counted in requests, not in time: a disk may take seconds for one sync.
//
// VARVE_KILLS: how many kills, for both ways of using the disk together; 10 without it.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "tests/support/io_kinds.h"
#include "tests/support/store_process.h"

namespace varve::client {
namespace {

using varve::testing::MetricValue;
using varve::testing::StoreProcess;

constexpr int kThreads = 3;
constexpr int kKeysPerThread = 40;
constexpr size_t kMaxValueBytes = 300 << 10;
constexpr uint64_t kCapacityBytes = 128 << 20;
constexpr int kAbsent = -1;
constexpr absl::Duration kPatience = absl::Seconds(120);  // with a slow disk

int Kills() {
  const char* text = std::getenv("VARVE_KILLS");
  int kills = 10;
  if (text != nullptr && !absl::SimpleAtoi(text, &kills)) ADD_FAILURE() << "VARVE_KILLS " << text;
  return kills;
}

page::ObjectKey Key(const std::string& text) { return page::ObjectKey::FromBytes(text).value(); }

// The value of a version of a key: its size too.
std::vector<std::byte> Value(const std::string& key, int version) {
  std::mt19937_64 random(std::hash<std::string>()(key) + static_cast<uint64_t>(version));
  std::vector<std::byte> value(1 + random() % kMaxValueBytes);
  for (size_t i = 0; i + 8 <= value.size(); i += 8) {
    const uint64_t word = random();
    std::memcpy(value.data() + i, &word, 8);
  }
  return value;
}

// Some keys, used by one thread, over all lives of the store.
class Keys {
 public:
  Keys(int thread, uint64_t seed) : thread_(thread), random_(seed) {
    for (int i = 0; i < kKeysPerThread; ++i) states_[Name(i)] = {kAbsent};
  }

  // Until the store is gone; counts what was answered.
  void Use(const std::string& address, const std::atomic<bool>& stop, std::atomic<int>& answers) {
    if (!Connect(address)) return;
    for (; !stop.load(); ++answers) {
      const uint64_t dice = random_() % 10;
      const std::string name = Name(static_cast<int>(random_() % kKeysPerThread));
      if (!(dice < 5 ? Put(name) : dice < 8 ? Get(name) : Remove(name))) return;
      if (::testing::Test::HasFailure()) return;
    }
  }
  void CheckAll(const std::string& address) {
    ASSERT_TRUE(Connect(address));
    std::vector<GetItem> items;
    for (const auto& [name, state] : states_) {
      items.push_back(
          {.key = Key(name),
           .range = {},
           .destinations = {{memory_.get(), items.size() * kMaxValueBytes, kMaxValueBytes}}});
    }
    const auto got = client_->Get(items);
    ASSERT_TRUE(got.ok()) << got.status();
    size_t i = 0;
    for (const auto& [name, state] : states_) {
      ASSERT_TRUE(Check(name, (*got)[i], memory_->bytes().subspan(i * kMaxValueBytes))) << name;
      ++i;
    }
  }
  void RemoveAll(const std::string& address) {
    ASSERT_TRUE(Connect(address));
    std::vector<page::ObjectKey> keys;
    for (const auto& [name, state] : states_) keys.push_back(Key(name));
    const auto removed = client_->Remove(keys, /*force=*/true);
    ASSERT_TRUE(removed.ok()) << removed.status();
    for (auto& [name, state] : states_) state = {kAbsent};
  }
  int acknowledged() const { return acknowledged_; }

 private:
  std::string Name(int i) const { return absl::StrCat("thread", thread_, "-key", i); }

  bool Connect(const std::string& address) {
    memory_.reset();
    ClientOptions options;
    options.address = address;
    options.lanes = {thread_ % 2 == 0 ? "shm" : "tcp"};
    options.connect_timeout = kPatience;
    options.transfer_deadline = kPatience;
    options.call_timeout = kPatience;
    auto client = Client::Connect(options);
    if (!client.ok()) return false;
    client_ = *std::move(client);
    auto memory = client_->Allocate(kKeysPerThread * kMaxValueBytes);
    if (!memory.ok()) return false;
    memory_ = *std::move(memory);
    return true;
  }

  // False: the store is gone, and what became of the request is not known.
  bool Put(const std::string& name) {
    const int version = next_version_++;
    const std::vector<std::byte> value = Value(name, version);
    std::copy(value.begin(), value.end(), memory_->bytes().begin());
    const auto put = client_->Put(
        std::vector<PutItem>{{.key = Key(name), .sources = {{memory_.get(), 0, value.size()}}}});
    std::set<int>& state = states_[name];
    if (!put.ok()) {
      state.insert(version);
      return false;
    }
    const PutResult& result = put->front();
    switch (result.outcome) {
      case PutOutcome::kStored:
        EXPECT_TRUE(state.contains(kAbsent)) << name << " was there and is stored anew";
        state = {version};
        ++acknowledged_;
        return true;
      case PutOutcome::kExists:
        state.erase(kAbsent);
        EXPECT_FALSE(state.empty()) << name << " exists, and was never stored";
        return true;
      default:
        state.insert(version);
        return false;
    }
  }
  bool Get(const std::string& name) {
    const auto get = client_->Get(std::vector<GetItem>{
        {.key = Key(name), .range = {}, .destinations = {{memory_.get(), 0, kMaxValueBytes}}}});
    return get.ok() && Check(name, get->front(), memory_->bytes());
  }
  // False: no answer.
  bool Check(const std::string& name, const GetResult& result, std::span<const std::byte> bytes) {
    std::set<int>& state = states_.at(name);
    if (!result.hit) {
      if (result.reason == MissReason::kFailed) return false;
      EXPECT_TRUE(state.contains(kAbsent)) << name << " was acknowledged and is lost";
      state = {kAbsent};
      return true;
    }
    for (int version : state) {
      if (version == kAbsent) continue;
      const std::vector<std::byte> value = Value(name, version);
      if (value.size() != result.bytes || !std::equal(value.begin(), value.end(), bytes.begin())) {
        continue;
      }
      state = {version};
      return true;
    }
    ADD_FAILURE() << name << ": bytes that are none of the versions it may have";
    return true;
  }
  bool Remove(const std::string& name) {
    const auto removed = client_->Remove(std::vector{Key(name)}, /*force=*/true);
    std::set<int>& state = states_[name];
    state.insert(kAbsent);
    if (!removed.ok()) return false;
    state = {kAbsent};
    return true;
  }

  const int thread_;
  std::mt19937_64 random_;
  std::map<std::string, std::set<int>> states_;  // what each key may be
  int next_version_ = 0;
  int acknowledged_ = 0;
  std::unique_ptr<Client> client_;
  std::unique_ptr<Memory> memory_;
};

class KillTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/varve_kill_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(directory_);
  }

  void Start() {
    // Half of the values fit host memory; what is put and removed again has to be reclaimed.
    auto store = StoreProcess::Start(
        {"--host_tier.capacity_bytes=8MiB", "--sessions.max_object_bytes=512KiB",
         absl::StrCat("--nvme_tier.directories=", directory_, "=", kCapacityBytes),
         "--nvme_tier.durability=nvme_sync", "--nvme_tier.segment_bytes=4MiB",
         "--nvme_tier.staging_bytes=4MiB", absl::StrCat("--nvme_tier.io=", GetParam())});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
  }
  uint64_t DirectoryBytes() const {
    uint64_t bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(directory_)) {
      bytes += file.file_size();
    }
    return bytes;
  }

  std::string directory_;
  std::unique_ptr<StoreProcess> store_;
};

TEST_P(KillTest, WhatWasAcknowledgedIsThere) {
  const uint64_t seed = 20261121;
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  std::vector<std::unique_ptr<Keys>> keys;
  for (int t = 0; t < kThreads; ++t) keys.push_back(std::make_unique<Keys>(t, seed + t));
  const int kills = Kills() / 2;
  for (int kill = 0; kill < kills; ++kill) {
    SCOPED_TRACE(::testing::Message() << "kill " << kill);
    Start();
    for (auto& k : keys) k->CheckAll(store_->grpc_address());
    std::atomic<bool> stop{false};
    std::atomic<int> answers{0};
    std::vector<std::thread> threads;
    for (auto& k : keys) {
      threads.emplace_back([&, k = k.get()] { k->Use(store_->grpc_address(), stop, answers); });
    }
    const int enough = 10 + static_cast<int>(random() % 300);
    const absl::Time late = absl::Now() + absl::Seconds(10);
    while (answers.load() < enough && absl::Now() < late) absl::SleepFor(absl::Milliseconds(1));
    store_->Signal(SIGKILL);
    stop.store(true);
    for (std::thread& thread : threads) thread.join();
    ASSERT_TRUE(store_->Wait(kPatience).ok());
    ASSERT_LE(DirectoryBytes(), kCapacityBytes);
    if (HasFailure()) return;
  }
  int acknowledged = 0;
  for (auto& k : keys) acknowledged += k->acknowledged();
  std::printf("%d kills, %d values acknowledged\n", kills, acknowledged);
  EXPECT_GT(acknowledged, kills);
  // Nothing is left of what was removed.
  Start();
  for (auto& k : keys) k->CheckAll(store_->grpc_address());
  for (auto& k : keys) k->RemoveAll(store_->grpc_address());
  ASSERT_EQ(*store_->Stop(kPatience), 0);
  Start();
  for (auto& k : keys) k->CheckAll(store_->grpc_address());
  const std::string metrics = store_->HttpGet("/metrics");
  EXPECT_EQ(MetricValue(metrics, "varve_objects{tier=\"nvme\"}"), 0);
  EXPECT_LT(MetricValue(metrics, "varve_nvme_live_bytes"), 1 << 20);
}

INSTANTIATE_TEST_SUITE_P(BothWays, KillTest, ::testing::ValuesIn(varve::testing::IoKinds()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace varve::client
