#include "kvstore/server/session_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <deque>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kvstore/server/memory_refs.h"

namespace varve::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Runs what it was given when the test says so.
class ManualExecutor final : public base::Executor {
 public:
  void Run(base::Task task) override { tasks_.push_back(std::move(task)); }
  size_t RunAll() {
    size_t ran = 0;
    for (; !tasks_.empty(); ++ran) {
      base::Task task = std::move(tasks_.front());
      tasks_.pop_front();
      std::move(task)();
    }
    return ran;
  }

 private:
  std::deque<base::Task> tasks_;
};

struct EndpointLog {
  int alive = 0;
  int closed = 0;
  int regions = 0;
};

class FakeRegion final : public transport::RemoteRegion {
 public:
  FakeRegion(size_t bytes, EndpointLog& log) : RemoteRegion(bytes, Way::kDirect), log_(log) {
    ++log_.regions;
  }
  ~FakeRegion() override {
    EXPECT_GT(log_.alive, 0) << "a region outlived its endpoint";
    --log_.regions;
  }

 private:
  EndpointLog& log_;
};

class FakeEndpoint final : public transport::Endpoint {
 public:
  explicit FakeEndpoint(EndpointLog& log) : log_(log) { ++log_.alive; }
  ~FakeEndpoint() override { --log_.alive; }
  // The descriptor is the region's size.
  absl::StatusOr<std::unique_ptr<transport::RemoteRegion>> Import(
      const std::string& descriptor) override {
    if (descriptor.empty()) return absl::InvalidArgumentError("malformed descriptor");
    return std::make_unique<FakeRegion>(std::stoull(descriptor), log_);
  }
  void Close() override { ++log_.closed; }
  absl::Status Health() const override { return absl::OkStatus(); }
  const char* lane() const override { return "loopback"; }

 private:
  void DoRead(std::vector<transport::Segment>, absl::Time, transport::Done) override {}
  void DoWrite(std::vector<transport::Segment>, absl::Time, transport::Done) override {}
  EndpointLog& log_;
};

class SessionTableTest : public ::testing::Test {
 protected:
  SessionRef Open() {
    SessionInfo info;
    info.client_name = "c";
    auto session = table_.Open(std::move(info), std::make_unique<FakeEndpoint>(log_));
    EXPECT_TRUE(session.ok()) << session.status();
    return *std::move(session);
  }
  void TearDown() override {
    table_.EndAll(EndMode::kAbrupt, absl::OkStatus());
    reaper_.RunAll();
    EXPECT_TRUE(table_.AwaitNone(absl::ZeroDuration()));
    EXPECT_EQ(log_.alive, 0);
    EXPECT_EQ(log_.regions, 0);
  }

  ManualExecutor reaper_;
  EndpointLog log_;
  std::vector<uint64_t> ended_;
  SessionTable table_{SessionLimits{3, 2, 1024}, &reaper_,
                      [this](uint64_t number) { ended_.push_back(number); }};
};

TEST_F(SessionTableTest, IdsAreLongAndDifferentAndNumbersAreNotReused) {
  std::set<std::string> ids;
  std::set<uint64_t> numbers;
  for (int i = 0; i < 50; ++i) {
    SessionRef session = Open();
    EXPECT_EQ(session->id().size(), 16u);
    ids.insert(session->id());
    numbers.insert(session->number());
    EXPECT_EQ(*table_.Find(session->id()), session);
    table_.End(session, EndMode::kAbrupt, absl::OkStatus());
  }
  EXPECT_EQ(ids.size(), 50u);
  EXPECT_EQ(numbers.size(), 50u);
}

TEST_F(SessionTableTest, EndingDropsWhatItHeldOnceAndClosesAGoneClientsEndpoint) {
  SessionRef session = Open();
  table_.End(session, EndMode::kAbrupt, absl::OkStatus());
  table_.End(session, EndMode::kAbrupt, absl::OkStatus());
  EXPECT_THAT(ended_, ElementsAre(session->number()));
  EXPECT_EQ(log_.closed, 1);
  EXPECT_TRUE(absl::IsUnauthenticated(table_.Find(session->id()).status()));
  EXPECT_TRUE(absl::IsUnavailable(session->WhileOpen([] { return absl::OkStatus(); })));
}

TEST_F(SessionTableTest, TheEndpointLivesUntilTheLastTransferAndDiesOnTheReaper) {
  SessionRef in_flight = Open();
  table_.End(in_flight, EndMode::kGraceful, absl::OkStatus());
  EXPECT_EQ(log_.closed, 0);
  EXPECT_EQ(reaper_.RunAll(), 0u);
  EXPECT_EQ(log_.alive, 1);
  EXPECT_FALSE(table_.AwaitNone(absl::ZeroDuration()));
  table_.CloseEndpoints();
  EXPECT_EQ(log_.closed, 1);
  in_flight.reset();
  EXPECT_EQ(log_.alive, 1) << "destroyed where the last transfer ended";
  EXPECT_EQ(reaper_.RunAll(), 1u);
  EXPECT_EQ(log_.alive, 0);
}

TEST_F(SessionTableTest, TheStreamIsClosedOnlyForAReason) {
  std::vector<std::string> reasons;
  const auto closer = [&](const absl::Status& status) { reasons.emplace_back(status.message()); };
  SessionRef quiet = Open(), stalled = Open();
  quiet->SetStreamCloser(closer);
  stalled->SetStreamCloser(closer);
  table_.End(quiet, EndMode::kAbrupt, absl::OkStatus());
  table_.End(stalled, EndMode::kAbrupt, absl::UnavailableError("stalled"));
  EXPECT_THAT(reasons, ElementsAre("stalled"));
}

TEST_F(SessionTableTest, LimitsAndDraining) {
  SessionRef a = Open(), b = Open(), c = Open();
  EXPECT_EQ(table_.size(), 3u);
  const absl::Status full = table_.Open({}, std::make_unique<FakeEndpoint>(log_)).status();
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(std::string(full.message()), HasSubstr("max_sessions allows 3"));
  reaper_.RunAll();
  EXPECT_EQ(log_.alive, 3);
  table_.End(a, EndMode::kAbrupt, absl::OkStatus());
  SessionRef again = Open();
  table_.Close();
  EXPECT_TRUE(absl::IsFailedPrecondition(table_.Open({}, nullptr).status()));
  EXPECT_TRUE(table_.Find(b->id()).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(table_.Find("unknown").status()));
}

TEST_F(SessionTableTest, RegionsAreCountedLimitedAndKeptByTransfers) {
  SessionRef session = Open();
  EXPECT_EQ(session->AddRegion(1, "1000").value_or(0), 1000u);
  EXPECT_TRUE(absl::IsAlreadyExists(session->AddRegion(1, "5").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(session->AddRegion(2, "").status()));
  EXPECT_EQ(session->AddRegion(0, "24").value_or(0), 24u);
  EXPECT_TRUE(absl::IsResourceExhausted(session->AddRegion(3, "1").status()));
  EXPECT_EQ(session->registered_bytes(), 1024u);
  EXPECT_EQ(table_.registered_bytes(), 1024u);
  RegionRef held = session->FindRegion(1);
  EXPECT_TRUE(session->RemoveRegion(1).ok());
  EXPECT_TRUE(absl::IsNotFound(session->RemoveRegion(1)));
  EXPECT_EQ(session->registered_bytes(), 24u);
  EXPECT_EQ(held->bytes(), 1000u);
  EXPECT_EQ(session->FindRegion(1), nullptr);
  held.reset();
}

TEST_F(SessionTableTest, RegisteredBytesAreLimitedWithoutOverflow) {
  SessionRef session = Open();
  const auto refused = [&](const std::string& bytes) {
    const absl::Status status = session->AddRegion(2, bytes).status();
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refused("1025"), HasSubstr("max_registered_bytes allows 1024"));
  ASSERT_TRUE(session->AddRegion(1, "1000").ok());
  EXPECT_THAT(refused("25"), HasSubstr("25 bytes, where the session has registered 1000"));
  // Together a few bytes, modulo 2^64.
  refused("18446744073709551615");
  refused("18446744073709550620");
  EXPECT_EQ(session->registered_bytes(), 1000u);
  EXPECT_EQ(log_.regions, 1);
  EXPECT_TRUE(session->RemoveRegion(1).ok());
  EXPECT_TRUE(session->AddRegion(2, "1024").ok());
}

TEST_F(SessionTableTest, OpeningAndEndingFromManyThreads) {
  base::ThreadPool reaper("reaper", 1);
  std::atomic<int> ended{0};
  SessionTable table(SessionLimits{1000, 2, 1 << 20}, &reaper, [&](uint64_t) { ++ended; });
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) {
        SessionRef session = *table.Open({}, nullptr);
        EXPECT_TRUE(table.Find(session->id()).ok());
        table.End(session, EndMode::kGraceful, absl::OkStatus());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ended, 800);
  EXPECT_EQ(table.size(), 0u);
  EXPECT_TRUE(table.AwaitNone(absl::Seconds(20)));
}

// ---- pieces of registered memory

class MemoryRefsTest : public SessionTableTest {
 protected:
  static google::protobuf::RepeatedPtrField<varve::v1::MemoryRef> Refs(
      std::initializer_list<std::array<uint64_t, 3>> refs) {
    google::protobuf::RepeatedPtrField<varve::v1::MemoryRef> out;
    for (const auto& [region, offset, bytes] : refs) {
      varve::v1::MemoryRef* ref = out.Add();
      ref->set_region_id(region);
      ref->set_offset(offset);
      ref->set_bytes(bytes);
    }
    return out;
  }
};

TEST_F(MemoryRefsTest, PiecesAreCheckedAgainstTheirRegion) {
  SessionRef session = Open();
  ASSERT_TRUE(session->AddRegion(7, "100").ok());
  uint64_t total = 0;
  EXPECT_TRUE(ResolveRefs(*session, Refs({{7, 0, 100}, {7, 99, 1}}), "sources", &total).ok());
  EXPECT_EQ(total, 101u);
  const uint64_t max = ~uint64_t{0};
  for (const auto& bad : {Refs({}), Refs({{8, 0, 1}}), Refs({{7, 0, 0}}), Refs({{7, 0, 101}}),
                          Refs({{7, 100, 1}}), Refs({{7, 101, 1}}), Refs({{7, max, 2}}),
                          Refs({{7, 2, max}}), Refs({{7, 0, 1}, {7, 1, 100}})}) {
    total = 4711;
    const auto pieces = ResolveRefs(*session, bad, "sources", &total);
    EXPECT_TRUE(absl::IsInvalidArgument(pieces.status()));
    EXPECT_THAT(std::string(pieces.status().message()), HasSubstr("sources"));
    EXPECT_EQ(total, 4711u) << "outputs are set only on success";
  }
}

TEST_F(MemoryRefsTest, CursorPairsLocalAndRemoteBytesInOrder) {
  SessionRef session = Open();
  ASSERT_TRUE(session->AddRegion(1, "1000").ok());
  uint64_t total = 0;
  const auto pieces =
      ResolveRefs(*session, Refs({{1, 500, 10}, {1, 0, 5}, {1, 900, 20}}), "x", &total);
  ASSERT_TRUE(pieces.ok());
  std::vector<std::byte> local(35);
  std::vector<transport::Segment> segments;
  PieceCursor cursor(*pieces);
  cursor.Map(std::span(local).first(3), nullptr, segments);
  cursor.Map(std::span(local).subspan(3, 14), nullptr, segments);
  cursor.Map(std::span(local).subspan(17), nullptr, segments);
  // Every local byte, in order, and where it meets the client's memory.
  std::vector<size_t> remote;
  const std::byte* next = local.data();
  for (const transport::Segment& segment : segments) {
    EXPECT_EQ(segment.local.data(), next);
    next += segment.local.size();
    for (size_t i = 0; i < segment.local.size(); ++i) remote.push_back(segment.remote_offset + i);
  }
  std::vector<size_t> expected;
  for (size_t i = 0; i < 10; ++i) expected.push_back(500 + i);
  for (size_t i = 0; i < 5; ++i) expected.push_back(i);
  for (size_t i = 0; i < 20; ++i) expected.push_back(900 + i);
  EXPECT_EQ(remote, expected);
}

}  // namespace
}  // namespace varve::server
