#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "client/call_deadline.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "kvstore/transport/loopback.h"
#include "tests/unit/client/fake_store.h"

namespace varve::client::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::vector<page::ObjectKey> kKeys = {page::ObjectKey::FromBytes("some key").value()};

class SessionTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<Client>> Connect(absl::Duration timeout = absl::Seconds(20),
                                                  bool lazy = false) {
    ClientOptions options;
    options.connect_timeout = timeout;
    options.lazy_session = lazy;
    return Client::Connect(store_.channel(), transport_.get(), options);
  }
  template <typename Condition>
  static bool Eventually(const Condition& condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!condition() && absl::Now() < deadline) std::this_thread::yield();
    return condition();
  }

  FakeStore store_;
  std::unique_ptr<transport::Transport> transport_ = transport::MakeLoopbackTransport();
};

TEST_F(SessionTest, TriesAgainWhileTheStoreIsUnavailable) {
  store_.RefuseSessions(3, {grpc::StatusCode::UNAVAILABLE, "not yet"});
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(store_.sessions_opened(), 1);
}

TEST_F(SessionTest, GivesUpAfterTheTimeout) {
  store_.RefuseSessions(1 << 20, {grpc::StatusCode::UNAVAILABLE, "never"});
  const auto client = Connect(absl::Seconds(1));
  EXPECT_EQ(client.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(client.status().message()), HasSubstr("never"));
}

TEST_F(SessionTest, ARefusalIsNotTriedAgain) {
  store_.RefuseSessions(1, {grpc::StatusCode::RESOURCE_EXHAUSTED, "full"});
  const auto client = Connect();
  EXPECT_EQ(client.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(store_.sessions_opened(), 0);
}

TEST_F(SessionTest, ALazySessionOpensWithTheFirstCall) {
  const auto client = Connect(absl::Seconds(20), true);
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_EQ(store_.sessions_opened(), 0);
  EXPECT_EQ((*client)->lane(), "");
  EXPECT_TRUE((*client)->Exists(kKeys).ok());
  EXPECT_EQ(store_.sessions_opened(), 1);
  EXPECT_EQ((*client)->lane(), "loopback");
}

TEST_F(SessionTest, ASessionThatTheStoreForgotIsReplacedWithinTheCall) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  const auto memory = (*client)->Allocate(100);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const std::set<uint64_t> regions = store_.regions();
  EXPECT_EQ(regions.size(), 1u);
  store_.ForgetSessions();
  EXPECT_THAT((*client)->Exists(kKeys).value(), ElementsAre(true));
  EXPECT_EQ(store_.sessions_opened(), 2);
  EXPECT_EQ(store_.exists_calls(), 2);
  EXPECT_EQ(store_.regions(), regions) << "the new session must know the memory";
}

TEST_F(SessionTest, RegionsThatCameAndWentAreToldToTheNextSession) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  auto kept = (*client)->Allocate(100), dropped = (*client)->Allocate(100);
  ASSERT_TRUE(kept.ok() && dropped.ok());
  EXPECT_EQ(store_.regions().size(), 2u);
  store_.EndSessions();
  dropped->reset();
  const auto added = (*client)->Allocate(100);
  ASSERT_TRUE(added.ok()) << added.status();
  EXPECT_TRUE(Eventually([&] { return store_.regions().size() == 2; }));
  EXPECT_GE(store_.sessions_opened(), 2);
  kept->reset();
  EXPECT_EQ(store_.regions().size(), 1u);
}

TEST_F(SessionTest, RefusedMemoryIsForgotten) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  store_.RefuseRegions({grpc::StatusCode::RESOURCE_EXHAUSTED, "too many"});
  const auto memory = (*client)->Allocate(100);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(memory.status().message()), HasSubstr("too many"));
  store_.RefuseRegions(grpc::Status::OK);
  store_.EndSessions();
  EXPECT_TRUE(Eventually([&] { return (*client)->Exists(kKeys).ok(); }));
  EXPECT_THAT(store_.regions(), IsEmpty());
}

// What the store makes of memory that it does not answer for is unknown: such a session is given
// up.
TEST_F(SessionTest, RegionsThatAreNotAnsweredForEndInTimeAndWithTheirSession) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  auto kept = (*client)->Allocate(100), dropped = (*client)->Allocate(100);
  ASSERT_TRUE(kept.ok() && dropped.ok());
  uint64_t session = (*client)->session();
  store_.SilenceRegions();
  const absl::Time begin = absl::Now();
  {
    const CallDeadline deadline(absl::Now() + absl::Milliseconds(300));
    std::vector<std::byte> own(100);
    EXPECT_EQ((*client)->Register(own).status().code(), absl::StatusCode::kDeadlineExceeded);
  }
  EXPECT_NE((*client)->session(), session);
  ASSERT_TRUE((*client)->Exists(kKeys).ok());
  EXPECT_EQ(store_.regions().size(), 2u);
  session = (*client)->session();
  store_.SilenceRegions();
  {
    const CallDeadline deadline(absl::Now() + absl::Milliseconds(300));
    dropped->reset();
  }
  EXPECT_LT(absl::Now() - begin, absl::Seconds(8));  // 10 s each without the caller's deadline
  EXPECT_NE((*client)->session(), session);
  ASSERT_TRUE((*client)->Exists(kKeys).ok());
  EXPECT_EQ(store_.regions().size(), 1u);
}

TEST_F(SessionTest, InlineCallsWaitForASessionAsLongAsTheirCaller) {
  store_.RefuseSessions(1 << 20, {grpc::StatusCode::UNAVAILABLE, "not now"});
  ClientOptions options;
  options.connect_timeout = absl::Seconds(30);
  options.lazy_session = true;
  const auto client = Client::Connect(store_.channel(), nullptr, options);
  ASSERT_TRUE(client.ok()) << client.status();
  std::vector<std::byte> own(100);
  const auto memory = (*client)->Register(own);
  ASSERT_TRUE(memory.ok()) << memory.status();
  const Piece piece{memory->get(), 0, 100};
  const absl::Time begin = absl::Now();
  const CallDeadline deadline(begin + absl::Milliseconds(300));
  const PutItem put{.key = kKeys[0], .sources = {piece}};
  const GetItem get{.key = kKeys[0], .destinations = {piece}};
  EXPECT_EQ((*client)->Put({&put, 1}).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*client)->Get({&get, 1}).status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ((*client)->PutInline(kKeys[0], own, {}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(15));
}

TEST_F(SessionTest, ManyThreadsShareOneNewSession) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  store_.RefuseSessions(2, {grpc::StatusCode::UNAVAILABLE, "not yet"});
  store_.ForgetSessions();
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&] {
      const auto exists = (*client)->Exists(kKeys);
      EXPECT_TRUE(exists.ok()) << exists.status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(store_.sessions_opened(), 2);
}

TEST_F(SessionTest, BatchesAreSplitAtTheLimitOfTheStore) {
  store_.SetMaxBatchItems(3);
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  const auto exists = (*client)->Exists(std::vector<page::ObjectKey>(8, kKeys[0]));
  EXPECT_THAT(exists.value(), ElementsAre(true, false, true, true, false, true, true, false));
  EXPECT_THAT(store_.exists_batches(), ElementsAre(3, 3, 2));
}

TEST_F(SessionTest, ClosingEndsACallThatHangs) {
  auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  absl::Status status;
  (*client)->GetAsync({GetItem{.key = kKeys[0]}},
                      [&](const auto& results) { status = results.status(); });
  ASSERT_TRUE(Eventually([&] { return store_.get_calls() == 1; }));
  client->reset();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
}

TEST_F(SessionTest, ClosingEndsTheWaitForASession) {
  const auto started = absl::Now();
  {
    const auto client = Connect(absl::Minutes(10), true);
    ASSERT_TRUE(client.ok()) << client.status();
    store_.RefuseSessions(1 << 20, {grpc::StatusCode::UNAVAILABLE, "never"});
    std::atomic<bool> answered = false;
    (*client)->GetAsync({GetItem{.key = kKeys[0]}}, [&](const auto& results) {
      EXPECT_EQ(results.status().code(), absl::StatusCode::kCancelled);
      answered = true;
    });
    EXPECT_FALSE(answered);
  }
  EXPECT_LT(absl::Now() - started, absl::Minutes(1));
}

TEST_F(SessionTest, RepliesFindTheirRecallByTag) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  std::vector<std::thread> threads;
  for (uint32_t t = 1; t <= 10; ++t) {
    threads.emplace_back([&, t] {
      const auto result = (*client)->Recall({.context_id = "any", .sinks = t});
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(result->timings.total_us, t);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// What a store works on does not keep it from reading a stream: a recall that was given up is in
// its hands or was never sent.
TEST_F(SessionTest, NoMoreRecallsAreSentThanAStoreReads) {
  constexpr size_t kSent = 32;
  store_.SetRecallBatch(kSent + 1);  // that never comes
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  std::vector<std::thread> threads;
  for (size_t t = 0; t < kSent + 4; ++t) {
    threads.emplace_back([&] {
      const CallDeadline deadline(absl::Now() + absl::Seconds(2));
      EXPECT_EQ((*client)->Recall({.context_id = "any"}).status().code(),
                absl::StatusCode::kDeadlineExceeded);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(Eventually([&] { return store_.recalls_read() == kSent; })) << store_.recalls_read();
}

TEST_F(SessionTest, RecallsThatWaitedAreSentWhenOthersAreAnswered) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  // Recalls are answered in pairs: one that comes after another's answer would have no partner.
  for (int round = 0; round < 4; ++round) {
    std::vector<std::thread> threads;
    for (uint32_t t = 0; t < 100; ++t) {
      threads.emplace_back([&] {
        const auto result = (*client)->Recall({.context_id = "any", .sinks = 5});
        EXPECT_TRUE(result.ok()) << result.status();
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
}

TEST_F(SessionTest, AnErrorOfOneRecallLeavesTheOthersAlone) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  absl::Status bad;
  std::thread other([&] { bad = (*client)->Recall({.context_id = "any", .sinks = 13}).status(); });
  const auto good = (*client)->Recall({.context_id = "any", .sinks = 1});
  other.join();
  EXPECT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(bad.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(bad.message(), "thirteen");
}

TEST_F(SessionTest, DigestStreamsGoOnAfterARefusalAndInTheNextSession) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  const auto send = [&](uint32_t layer) {
    return (*client)->SendDigests("any", 0, layer, 0, 1, "rows", absl::Now());
  };
  EXPECT_TRUE(send(0).ok());
  EXPECT_EQ(send(1).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(send(0).ok());
  store_.ForgetSessions();
  EXPECT_TRUE((*client)->Exists(kKeys).ok());
  EXPECT_TRUE(send(0).ok());
}

// Digests whose sender gave up before they were on their way stay behind; those on their way keep
// their turn of the replies.
TEST_F(SessionTest, DigestsThatTimedOutUnsentAreNotSentLater) {
  const auto client = Connect();
  ASSERT_TRUE(client.ok()) << client.status();
  const auto send = [&](uint32_t layer, uint32_t block, absl::Duration patience) {
    const CallDeadline deadline(absl::Now() + patience);
    return (*client)->SendDigests("any", 0, layer, block, 1, "rows", absl::Now()).code();
  };
  store_.HoldDigests(true);
  ASSERT_TRUE((*client)->Exists(kKeys).ok());
  EXPECT_EQ(send(0, 0, absl::Milliseconds(200)), absl::StatusCode::kDeadlineExceeded);
  for (uint32_t block = 1; block <= 10; ++block) {
    EXPECT_EQ(send(0, block, absl::Milliseconds(20)), absl::StatusCode::kDeadlineExceeded);
  }
  store_.HoldDigests(false);
  EXPECT_EQ(send(1, 11, absl::Seconds(20)), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(send(0, 12, absl::Seconds(20)), absl::StatusCode::kOk);
  EXPECT_LE(store_.digests_read().size(), 5u);  // gRPC takes a few before they are read
  EXPECT_EQ(store_.digests_read().back(), 12u);
}

TEST_F(SessionTest, OptionsOutOfRangeAreNamed) {
  for (const absl::Duration bad :
       {absl::ZeroDuration(), absl::InfiniteDuration(), -absl::Seconds(1)}) {
    const auto client = Connect(bad);
    EXPECT_EQ(client.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(client.status().message()), HasSubstr("connect_timeout"));
  }
}

}  // namespace
}  // namespace varve::client::testing
