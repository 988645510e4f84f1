// Sessions that break and stores that cannot: one that dies and comes back, a transfer that takes
// too long, no space.
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "tests/support/store_process.h"

namespace varve::client {
namespace {

using varve::testing::StoreProcess;

constexpr size_t kLarge = 48 << 20;

page::ObjectKey Key(const std::string& text) { return page::ObjectKey::FromBytes(text).value(); }

class ReconnectTest : public ::testing::TestWithParam<const char*> {
 protected:
  ClientOptions Options(const StoreProcess& store) const {
    ClientOptions options;
    options.address = store.grpc_address();
    options.lanes.clear();
    if (std::string_view(GetParam()) != "inline") options.lanes.push_back(GetParam());
    options.connect_timeout = absl::Seconds(30);
    return options;
  }
  static std::vector<PutItem> Put(const char* key, const Memory& memory, size_t bytes) {
    return {{.key = Key(key), .sources = {{&memory, 0, bytes}}}};
  }
  static std::vector<GetItem> Get(const char* key, const Memory& memory, size_t bytes) {
    return {{.key = Key(key), .destinations = {{&memory, 0, bytes}}}};
  }
  static std::unique_ptr<StoreProcess> Start(const std::vector<std::string>& flags) {
    auto store = StoreProcess::Start(flags);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? *std::move(store) : nullptr;
  }
};
INSTANTIATE_TEST_SUITE_P(Lanes, ReconnectTest, ::testing::Values("shm", "tcp", "inline"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(ReconnectTest, AStoreThatComesBackFindsTheMemoryAndMissesTheData) {
  auto store = Start({});
  ASSERT_NE(store, nullptr);
  const auto connected = Client::Connect(Options(*store));
  ASSERT_TRUE(connected.ok()) << connected.status();
  Client& client = **connected;
  const auto from = client.Allocate(10'000), to = client.Allocate(10'000);
  std::string own(10'000, 'o');
  const auto callers = client.Register(std::as_writable_bytes(std::span(own)));
  ASSERT_TRUE(from.ok() && to.ok() && callers.ok());
  std::fill((*from)->bytes().begin(), (*from)->bytes().end(), std::byte{7});
  ASSERT_EQ(client.Put(Put("before", **from, 10'000)).value()[0].outcome, PutOutcome::kStored);

  const std::string address = store->grpc_address();
  store->Signal(SIGKILL);
  ASSERT_TRUE(store->Wait(absl::Seconds(20)).ok());
  store = Start({absl::StrCat("--listen=", address)});
  ASSERT_NE(store, nullptr);

  // A call that was on its way into the broken connection may fail; the next one has a new session.
  auto got = client.Get(Get("before", **to, 10'000));
  if (!got.ok()) {
    EXPECT_EQ(got.status().code(), absl::StatusCode::kUnavailable) << got.status();
    got = client.Get(Get("before", **to, 10'000));
  }
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_FALSE(got->at(0).hit);
  EXPECT_EQ(got->at(0).reason, MissReason::kNeverStored);

  ASSERT_EQ(client.Put(Put("after", **from, 10'000)).value()[0].outcome, PutOutcome::kStored);
  ASSERT_TRUE(client.Get(Get("after", **callers, 10'000)).value()[0].hit);
  EXPECT_EQ(own, std::string(10'000, '\7'));
}

TEST_P(ReconnectTest, CallsWithoutAStoreFailInTime) {
  auto store = Start({});
  ASSERT_NE(store, nullptr);
  ClientOptions options = Options(*store);
  options.connect_timeout = absl::Seconds(2);
  const auto client = Client::Connect(options);
  ASSERT_TRUE(client.ok()) << client.status();
  store.reset();
  const absl::Time start = absl::Now();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ((*client)->Exists(std::vector{Key("anything")}).status().code(),
              absl::StatusCode::kUnavailable);
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST_P(ReconnectTest, ADrainedStoreRefusesNewSessionsAndAnswersAdministration) {
  auto store = Start({});
  ASSERT_NE(store, nullptr);
  ClientOptions options = Options(*store);
  options.connect_timeout = absl::Milliseconds(300);
  options.lazy_session = true;
  const auto client = Client::Connect(options);
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE((*client)->Drain().ok());
  const auto status = (*client)->Status();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_TRUE(status->draining);
  EXPECT_FALSE((*client)->Exists(std::vector{Key("anything")}).ok());
}

TEST_P(ReconnectTest, AStoreFullOfPinnedValuesSaysSoAndGoesOn) {
  constexpr size_t kBytes = 4 << 20;
  auto store = Start({"--host_tier.capacity_bytes=32MiB", "--sessions.max_object_bytes=8MiB"});
  ASSERT_NE(store, nullptr);
  const auto connected = Client::Connect(Options(*store));
  ASSERT_TRUE(connected.ok()) << connected.status();
  Client& client = **connected;
  const auto memory = client.Allocate(kBytes);
  ASSERT_TRUE(memory.ok()) << memory.status();
  PutResult last{PutOutcome::kStored, ""};
  for (int i = 0; i < 9 && last.outcome == PutOutcome::kStored; ++i) {
    const std::string key = absl::StrCat("full-", i);
    const auto put = client.Put(Put(key.c_str(), **memory, kBytes));
    ASSERT_TRUE(put.ok()) << put.status();
    last = put->at(0);
    if (last.outcome != PutOutcome::kStored) continue;
    ASSERT_EQ(client.Pin(std::vector{Key(key)}, absl::InfiniteDuration()).value(),
              std::vector<bool>{true});
  }
  EXPECT_EQ(last.outcome, PutOutcome::kNoSpace);
  EXPECT_THAT(last.message, ::testing::HasSubstr("pinned"));
  // What is there stays, and what is let go makes room.
  EXPECT_TRUE(client.Get(Get("full-0", **memory, kBytes)).value()[0].hit);
  ASSERT_TRUE(client.Unpin(std::vector{Key("full-0")}).value()[0]);
  EXPECT_EQ(client.Put(Put("late", **memory, kBytes)).value()[0].outcome, PutOutcome::kStored);
  EXPECT_EQ(client.Get(Get("full-0", **memory, kBytes)).value()[0].reason, MissReason::kEvicted);
}

class DeadlineTest : public ReconnectTest {};
INSTANTIATE_TEST_SUITE_P(Lanes, DeadlineTest, ::testing::Values("shm", "tcp"),
                         [](const auto& info) { return std::string(info.param); });

// The store closes the endpoint of a client that does not answer in time, and its session with it:
// the client must come back by itself.
TEST_P(DeadlineTest, ATransferThatTakesTooLongCostsOneSession) {
  auto store = Start({});
  ASSERT_NE(store, nullptr);
  ClientOptions options = Options(*store);
  options.transfer_deadline = absl::Milliseconds(1);
  const auto connected = Client::Connect(options);
  ASSERT_TRUE(connected.ok()) << connected.status();
  Client& client = **connected;
  // The caller's own memory: it travels in messages on every lane, so the deadline can cut in.
  std::string own(kLarge, 'o');
  const auto memory = client.Register(std::as_writable_bytes(std::span(own)));
  ASSERT_TRUE(memory.ok()) << memory.status();
  const auto slow = client.Put(Put("slow", **memory, kLarge));
  if (slow.ok()) {
    EXPECT_EQ(slow->at(0).outcome, PutOutcome::kFailed) << slow->at(0).message;
  }

  const absl::Time end = absl::Now() + absl::Seconds(60);
  bool stored = false;
  for (int i = 0; !stored && absl::Now() < end; ++i) {
    const auto quick = client.Put(Put(absl::StrCat("quick-", i).c_str(), **memory, 64));
    stored = quick.ok() && quick->at(0).outcome == PutOutcome::kStored;
  }
  EXPECT_TRUE(stored) << "no session after a deadline";
  EXPECT_EQ(client.Exists(std::vector{Key("slow")}).value(), std::vector<bool>{false});
}

}  // namespace
}  // namespace varve::client
