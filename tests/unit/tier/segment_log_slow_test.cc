// Directories whose disk does not answer: the others go on.
#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <list>
#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/tier/arena.h"
#include "kvstore/tier/directory_set.h"
#include "kvstore/tier/faulty_io.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

using ::testing::HasSubstr;

class SegmentLogSlowTest : public LogTest {
 protected:
  void SetUp() override {
    LogTest::SetUp();
    auto faulty = std::make_unique<FaultyIo>(std::move(io_));
    faulty_ = faulty.get();
    io_ = std::move(faulty);
  }
  void TearDown() override {
    faulty_->Clear();
    faulty_->Release();
    LogTest::TearDown();
  }

  // "a" is the larger one, and is chosen while it answers.
  SegmentLogOptions TwoDirectories() const {
    SegmentLogOptions options = Options();
    options.directories = {{Folder("a"), 32 << 20}, {Folder("b"), 16 << 20}};
    options.slow_after = absl::Milliseconds(50);
    return options;
  }
  void Hang(const std::string& folder) {
    faulty_->Add({.op = IoOp::kWrite,
                  .path = Folder(folder),
                  .times = UINT64_MAX,
                  .kind = IoFault::Kind::kHold});
  }
  // Once in a test.
  void Answer() {
    faulty_->Clear();
    faulty_->AwaitHeld(faulty_->struck());
    faulty_->Release();
  }
  Outcome Append(const std::string& label, size_t bytes) {
    payloads_.push_back(PayloadOf(label, bytes));
    const std::string& payload = payloads_.back();
    Outcome outcome;
    ids_.push_back(
        log_->Append({label, std::as_bytes(std::span(payload)), CrcOf(payload)}, outcome.Done()));
    return outcome;
  }
  DirectoryUsage Of(const std::string& name) const {
    for (const DirectoryUsage& each : log_->Usage().directories) {
      if (each.path == Folder(name)) return each;
    }
    return {};
  }
  void AwaitState(const std::string& name, DirectoryState state) {
    const absl::Time limit = absl::Now() + absl::Seconds(20);
    while (Of(name).state != state) {
      ASSERT_LT(absl::Now(), limit) << Of(name).problem;
      absl::SleepFor(absl::Milliseconds(5));
      log_->Tick();
    }
  }

  FaultyIo* faulty_ = nullptr;
  std::list<std::string> payloads_;
  std::vector<RecordId> ids_;
};

TEST_F(SegmentLogSlowTest, OneThatHangsGetsNoMoreUntilItAnswers) {
  Open(TwoDirectories());
  const uint64_t usable_bytes = log_->Room().usable_bytes;
  Hang("a");
  Outcome held = Append("held", 20000);
  faulty_->AwaitHeld(1);
  log_->Tick();
  AwaitState("a", DirectoryState::kSlow);
  EXPECT_THAT(Of("a").problem, HasSubstr("has been with its disk for"));
  EXPECT_EQ(Of("b").state, DirectoryState::kOk);
  // With less room what lies in either would be evicted, and that makes none in b.
  EXPECT_TRUE(log_->Room().takes_writes);
  EXPECT_EQ(log_->Room().usable_bytes, usable_bytes);
  const uint64_t before = Of("b").records;
  for (int i = 0; i < 5; ++i) {
    const RecordId id = Put("after", 20000, Sync::kYes);
    if (i % 2 == 0) ASSERT_OK(Erase({id}, Sync::kYes));
  }
  EXPECT_EQ(Of("b").records, before + 2);
  EXPECT_FALSE(held.over());
  Answer();
  ASSERT_OK(held.Await());
  AwaitState("a", DirectoryState::kOk);
  EXPECT_EQ(Of("a").problem, "");
  const uint64_t in_a = Of("a").records;
  Put("again", 20000);
  EXPECT_EQ(Of("a").records, in_a + 1);
  const RecordId held_id = ids_[0];
  Open(TwoDirectories());
  EXPECT_TRUE(recovered_.contains(held_id));
  EXPECT_EQ(recovered_.size(), 4u);
}

TEST_F(SegmentLogSlowTest, WhatWasQueuedThereGoesElsewhere) {
  Open(TwoDirectories());
  Hang("a");
  std::vector<Outcome> outcomes;
  for (int i = 0; i < 100; ++i) outcomes.push_back(Append(std::to_string(i), 20000));
  faulty_->AwaitHeld(1);
  AwaitState("a", DirectoryState::kSlow);
  // All but what is in the buffers of "a", or was next: four of 64 KiB.
  const auto over = [&] {
    return std::ranges::count_if(outcomes, [](const Outcome& each) { return each.over(); });
  };
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (over() < 80 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_GE(over(), 80);
  EXPECT_LT(over(), 100);
  Answer();
  for (size_t i = 0; i < outcomes.size(); ++i) {
    ASSERT_OK(outcomes[i].Await());
    const auto read = Get(ids_[i], 20000);
    ASSERT_OK(read.status());
    EXPECT_TRUE(*read == PayloadOf(std::to_string(i), 20000)) << i;
  }
}

// Where there is no other, what comes waits for it, and is not lost.
TEST_F(SegmentLogSlowTest, TheOnlyOneIsWaitedFor) {
  SegmentLogOptions options = Options();
  options.slow_after = absl::Milliseconds(50);
  Open(options);
  Hang("log");
  Outcome held = Append("held", 20000);
  faulty_->AwaitHeld(1);
  AwaitState("log", DirectoryState::kSlow);
  EXPECT_TRUE(log_->Room().takes_writes);
  std::vector<Outcome> waiting;
  for (int i = 0; i < 50; ++i) waiting.push_back(Append("waiting", 20000));
  log_->Tick();
  EXPECT_FALSE(waiting.back().over());
  Answer();
  ASSERT_OK(held.Await());
  for (Outcome& each : waiting) ASSERT_OK(each.Await());
}

TEST_F(SegmentLogSlowTest, ItLearnsLaterWhatDirectoriesThereAre) {
  Open(TwoDirectories());
  Hang("a");
  Outcome held = Append("held", 20000);
  faulty_->AwaitHeld(1);
  AwaitState("a", DirectoryState::kSlow);
  ASSERT_OK(log_->AddDirectory(Folder("c"), 16 << 20));
  const auto members = [&](const std::string& name) {
    std::ifstream file(Folder(name) + "/varve.set");
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    const auto set = ParseDirectorySet(bytes);
    return set.ok() ? set->members.size() : 0;
  };
  EXPECT_EQ(members("a"), 2u);
  EXPECT_EQ(members("b"), 3u);
  Answer();
  ASSERT_OK(held.Await());
  AwaitState("a", DirectoryState::kOk);
  const absl::Time limit = absl::Now() + absl::Seconds(20);
  while (members("a") < 3 && absl::Now() < limit) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(members("a"), 3u);
}

// A BlockIo whose threads stay in reads of one folder's files until they are released, as in a
// system call on a disk that hangs.
class StuckIo final : public BlockIo {
 public:
  StuckIo(std::unique_ptr<BlockIo> io, std::string folder)
      : folder_(std::move(folder)), io_(std::move(io)) {}

  void Hang() { hangs_ = true; }
  void Release() { release_.set_value(); }
  int stuck() const { return stuck_; }

  const char* name() const override { return "stuck"; }
  void Read(int fd, uint64_t offset, std::span<std::byte> to, IoClass io_class,
            Done done) override {
    const std::string file = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd));
    if (hangs_ && file.starts_with(folder_)) {
      done = [this, done = std::move(done)](absl::Status status) mutable {
        ++stuck_;
        released_.wait();
        std::move(done)(std::move(status));
      };
    }
    io_->Read(fd, offset, to, io_class, std::move(done));
  }
  void Write(int fd, uint64_t offset, std::span<const std::byte> from, IoClass io_class,
             Done done) override {
    io_->Write(fd, offset, from, io_class, std::move(done));
  }
  void Sync(int fd, Done done) override { io_->Sync(fd, std::move(done)); }

 private:
  const std::string folder_;
  std::atomic<int> stuck_{0};
  std::atomic<bool> hangs_{false};
  std::promise<void> release_;
  std::shared_future<void> released_ = release_.get_future().share();
  const std::unique_ptr<BlockIo> io_;  // the first to go: its threads use the rest
};

TEST_F(SegmentLogSlowTest, ItsReadsLeaveThoseOfOthersTheirThreads) {
  auto threads = MakeThreadIo({.queue_depth = 8});
  ASSERT_OK(threads.status());
  StuckIo stuck(*std::move(threads), Folder("a"));
  SegmentLogOptions options = TwoDirectories();
  options.directories[1] = options.directories[0];
  options.directories[1].path = Folder("b");
  options.queue_depth = 4;
  auto log = OpenSegmentLog(options, &stuck, &executor_);
  ASSERT_OK(log.status());
  log_ = *std::move(log);
  ASSERT_OK(log_->Recover([](const auto&) {}));
  std::vector<RecordId> in_a, in_b;
  while (in_b.empty()) {
    const uint64_t before = Of("a").records;
    const RecordId id = Put("record", 4096);
    (Of("a").records > before ? in_a : in_b).push_back(id);
  }
  stuck.Hang();
  constexpr int kReads = 20;
  auto arena = Arena::Map(kReads * kReadAlignment, false);
  ASSERT_OK(arena.status());
  std::vector<Outcome> reads(kReads);
  for (int i = 0; i < kReads; ++i) {
    log_->Read(in_a[0], 0, arena->memory().subspan(i * kReadAlignment, kReadAlignment),
               IoClass::kDemand, reads[i].Done());
  }
  while (stuck.stuck() < 4) std::this_thread::yield();
  ASSERT_OK(Get(in_b[0], 4095).status());
  EXPECT_EQ(stuck.stuck(), 4);
  AwaitState("a", DirectoryState::kSlow);
  stuck.Release();
  for (Outcome& read : reads) ASSERT_OK(read.Await());
  Close();
}

// A thread that waits in one directory's work, as in a system call on its files, is that
// directory's.
TEST_F(SegmentLogSlowTest, ItsThreadsAreItsOwn) {
  base::ThreadPool one("one", 1);
  SegmentLogOptions options = TwoDirectories();
  auto log = OpenSegmentLog(options, io_.get(), &one);
  ASSERT_OK(log.status());
  log_ = *std::move(log);
  ASSERT_OK(log_->Recover([](const auto&) {}));
  Hang("a");
  std::promise<void> stuck, release;
  std::vector<Outcome> held;
  for (int i = 0; i < 20; ++i) held.push_back(Append("held", 20000));
  faulty_->AwaitHeld(1);
  // The record is erased before its turn; its end then is told by the thread that does a's work.
  const std::string payload = PayloadOf("stuck", 100);
  Outcome end;
  const RecordId id = log_->Append({"stuck", std::as_bytes(std::span(payload)), CrcOf(payload)},
                                   [&, done = end.Done()](absl::Status status) mutable {
                                     stuck.set_value();
                                     release.get_future().wait();
                                     std::move(done)(std::move(status));
                                   });
  Outcome erased;
  log_->Erase(std::span(&id, 1), Sync::kNo, erased.Done());
  Answer();
  stuck.get_future().wait();
  // Larger than what is free in "a".
  std::vector<Outcome> outcomes;
  while (Of("b").records == 0) {
    ASSERT_LT(ids_.size(), 4000u);
    outcomes.push_back(Append("other", 20000));
    absl::SleepFor(absl::Milliseconds(1));
  }
  release.set_value();
  ASSERT_OK(end.Await());
  for (Outcome& each : held) ASSERT_OK(each.Await());
  for (Outcome& each : outcomes) ASSERT_OK(each.Await());
  Close();
}

}  // namespace
}  // namespace varve::tier
