// Many callers at once, and a process that is killed among them.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

#include "gtest/gtest.h"
#include "kvstore/tier/arena.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

class SegmentLogThreadsTest : public LogTest, public ::testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    LogTest::SetUp();
    if (GetParam()) return;
    auto io = MakeThreadIo({});
    ASSERT_OK(io.status());
    io_ = *std::move(io);
  }
};

// Readers and writers while segments come and go under them: what is read is the record, or nothing
// when it was erased meanwhile.
TEST_P(SegmentLogThreadsTest, ReclaimDisturbsNobody) {
  constexpr int kThreads = 4, kSteps = 250;
  constexpr size_t kKept = 25;
  Open(Options(8));
  std::atomic<uint64_t> read{0};
  const auto run = [&](int thread) {
    std::mt19937_64 random(thread);
    std::vector<std::pair<RecordId, std::string>> records;
    for (int step = 0; step < kSteps; ++step) {
      const std::string label = std::to_string(thread) + "/" + std::to_string(step);
      records.emplace_back(Put(label, 20000, step % 16 == 0 ? Sync::kYes : Sync::kNo), label);
      const auto& [id, text] = records[random() % records.size()];
      const auto found = Get(id, 20000);
      ASSERT_OK(found.status());
      ASSERT_TRUE(*found == PayloadOf(text, 20000));
      ++read;
      if (records.size() < kKept) continue;
      const size_t victim = random() % records.size();
      // A read that began before the erase sees the record whole, one after it nothing.
      auto memory = Arena::Map(20480, false);
      ASSERT_OK(memory.status());
      Outcome before;
      log_->Read(records[victim].first, 0, memory->memory().first(20480), IoClass::kDemand,
                 before.Done());
      ASSERT_OK(Erase({records[victim].first}));
      ASSERT_OK(before.Await());
      ASSERT_EQ(std::string(reinterpret_cast<const char*>(memory->memory().data()), 20000),
                PayloadOf(records[victim].second, 20000));
      EXPECT_EQ(Get(records[victim].first, 1).status().code(), absl::StatusCode::kNotFound);
      records.erase(records.begin() + static_cast<std::ptrdiff_t>(victim));
    }
  };
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) threads.emplace_back(run, thread);
  for (std::thread& thread : threads) thread.join();
  const LogUsage usage = log_->Usage();
  EXPECT_GT(usage.reclaimed_segments, 10u);
  EXPECT_EQ(usage.records, kThreads * (kKept - 1));
  EXPECT_EQ(usage.damaged_records, 0u);
}

// Whatever was begun is over when the log is gone.
TEST_P(SegmentLogThreadsTest, TheDestructorWaits) {
  Open(Options());
  const std::string payload = PayloadOf("x", 30000);
  std::vector<Outcome> outcomes(100);
  RecordId last = 0;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    if (i % 4 == 3) {
      log_->Erase(std::span(&last, 1), Sync::kYes, outcomes[i].Done());
    } else {
      last = log_->Append({"x", std::as_bytes(std::span(payload)), CrcOf(payload)},
                          outcomes[i].Done());
    }
  }
  Close();
  for (Outcome& outcome : outcomes) EXPECT_TRUE(outcome.over());
}

using SegmentLogKillTest = LogTest;

// Each life begins with what the kill before it left, and is looked at in a copy.
TEST_F(SegmentLogKillTest, AKilledProcessLosesNothingThatWasDone) {
  Records records;  // what was done, as the children told
  std::mt19937_64 random(99);
  for (uint64_t life = 0; life < 8; ++life) {
    SCOPED_TRACE(life);
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = StartLogChild({"append", Folder("log"), std::to_string(life)}, ends[1]);
    ASSERT_GE(child, 0);
    close(ends[1]);
    uint64_t line[2];
    // The child goes on while its last lines are read: it is killed in the middle of something.
    for (uint64_t left = 300 + random() % 100; read(ends[0], line, sizeof(line)) == sizeof(line);) {
      if (--left == 0) kill(child, SIGKILL);
      if (line[1] == 0) {
        records.erase(line[0]);
      } else {
        records[line[0]] = std::to_string(line[1]);
      }
    }
    close(ends[0]);
    int result = 0;
    ASSERT_EQ(waitpid(child, &result, 0), child);
    ASSERT_TRUE(WIFSIGNALED(result)) << WEXITSTATUS(result);
    Open(Copy(Options(8), "copy"));
    // What was under way when it was killed is there or not.
    size_t undecided = 0;
    for (const auto& [id, label] : records) undecided += recovered_.contains(id) ? 0 : 1;
    for (const auto& [id, label] : recovered_) {
      undecided += records.contains(id) ? 0 : 1;
      ASSERT_EQ(std::to_string(recovered_bytes_[id]), label);
      const auto found = Get(id, recovered_bytes_[id]);
      ASSERT_OK(found.status());
      ASSERT_TRUE(*found == PayloadOf(label, recovered_bytes_[id]));
    }
    EXPECT_LE(undecided, 1u);
    records = recovered_;
    Close();
  }
}

INSTANTIATE_TEST_SUITE_P(Io, SegmentLogThreadsTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Uring" : "Threads"; });

}  // namespace
}  // namespace varve::tier
