// Directories that fill up, fail, or refuse writes.
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/base/mutex.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

using ::testing::HasSubstr;

enum class Op { kRead, kWrite, kSync };

// Fails what the test says, by the file's directory.
class FailingIo final : public BlockIo {
 public:
  using Judge = std::function<absl::Status(Op, const std::string& folder)>;
  FailingIo(BlockIo* io, Judge judge) : io_(io), judge_(std::move(judge)) {}

  const char* name() const override { return "failing"; }
  void Read(int fd, uint64_t offset, std::span<std::byte> to, IoClass io_class,
            Done done) override {
    if (Passes(Op::kRead, fd, &done)) io_->Read(fd, offset, to, io_class, std::move(done));
  }
  void Write(int fd, uint64_t offset, std::span<const std::byte> from, IoClass io_class,
             Done done) override {
    if (Passes(Op::kWrite, fd, &done)) io_->Write(fd, offset, from, io_class, std::move(done));
  }
  void Sync(int fd, Done done) override {
    if (Passes(Op::kSync, fd, &done)) io_->Sync(fd, std::move(done));
  }

 private:
  bool Passes(Op op, int fd, Done* done) {
    const std::filesystem::path file =
        std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd));
    const absl::Status status = judge_(op, file.parent_path().filename());
    if (status.ok()) return true;
    io_->Sync(fd,
              [done = std::move(*done), status](absl::Status) mutable { std::move(done)(status); });
    return false;
  }

  BlockIo* const io_;
  const Judge judge_;
};

class SegmentLogFaultTest : public LogTest {
 protected:
  void SetUp() override {
    LogTest::SetUp();
    real_ = std::move(io_);
    io_ = std::make_unique<FailingIo>(real_.get(), [this](Op op, const std::string& folder) {
      return op == failing_op_ && folder == failing_ ? failure_ : absl::OkStatus();
    });
  }
  void TearDown() override {
    LogTest::TearDown();
    io_.reset();
  }

  SegmentLogOptions TwoDirectories() const {
    SegmentLogOptions options = Options();
    options.directories = {{Folder("a"), 16 << 20}, {Folder("b"), 8 << 20}};
    return options;
  }
  absl::Status TryPut(const std::string& label, size_t bytes, RecordId* id = nullptr,
                      Sync sync = Sync::kNo) {
    const std::string payload = PayloadOf(label, bytes);
    Outcome outcome;
    const RecordId given = log_->Append(
        {label, std::as_bytes(std::span(payload)), CrcOf(payload), sync}, outcome.Done());
    if (id != nullptr) *id = given;
    return outcome.Await();
  }
  DirectoryUsage Of(const std::string& name) const {
    for (const DirectoryUsage& each : log_->Usage().directories) {
      if (each.path == Folder(name)) return each;
    }
    return {};
  }
  void Fail(const std::string& folder, Op op, absl::Status failure) {
    failing_op_ = op;
    failure_ = std::move(failure);
    failing_ = folder;
  }

  std::unique_ptr<BlockIo> real_;
  // Set before the operations that they are for.
  std::string failing_;
  Op failing_op_ = Op::kWrite;
  absl::Status failure_;
};

TEST_F(SegmentLogFaultTest, AFailedWriteGoesToAnotherDirectory) {
  Open(TwoDirectories());
  Records records;
  for (int i = 0; i < 10; ++i) records[Put("before " + std::to_string(i), 20000)] = "";
  ASSERT_GT(Of("a").records, 0u);
  Fail("a", Op::kWrite, absl::DataLossError("injected EIO"));
  for (int i = 0; i < 10; ++i) records[Put("after " + std::to_string(i), 20000)] = "";
  EXPECT_EQ(Of("a").state, DirectoryState::kFailed);
  EXPECT_THAT(Of("a").problem, HasSubstr("injected EIO"));
  EXPECT_EQ(Of("b").state, DirectoryState::kOk);
  EXPECT_GE(log_->Usage().write_errors, 1u);
  for (const auto& [id, label] : records) ASSERT_OK(Get(id, 20000).status());
  // One more restart, with a disk that works again.
  ASSERT_OK(Erase({records.begin()->first}, Sync::kYes));
  failing_.clear();
  Open(TwoDirectories());
  records.erase(records.begin());
  EXPECT_EQ(recovered_.size(), records.size());
  for (const auto& [id, label] : records) EXPECT_TRUE(recovered_.contains(id));
  EXPECT_EQ(Of("a").state, DirectoryState::kOk);
}

TEST_F(SegmentLogFaultTest, WithoutAnotherDirectoryAppendsSayWhy) {
  Open(Options());
  const RecordId id = Put("before", 20000);
  Fail("log", Op::kWrite, absl::DataLossError("injected EIO"));
  const absl::Status status = TryPut("after", 20000);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("injected EIO"));
  EXPECT_EQ(TryPut("after", 20000).code(), absl::StatusCode::kUnavailable);
  ASSERT_OK(Get(id, 20000).status());
  EXPECT_EQ(Erase({id}).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Get(id, 20000).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SegmentLogFaultTest, AFailedSyncFailsTheDirectory) {
  Open(Options());
  Fail("log", Op::kSync, absl::DataLossError("injected EIO"));
  EXPECT_EQ(TryPut("synced", 100, nullptr, Sync::kYes).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Of("log").state, DirectoryState::kFailed);
}

TEST_F(SegmentLogFaultTest, AReadOnlyDirectoryIsLeftAlone) {
  Open(TwoDirectories());
  const RecordId id = Put("before", 20000);
  Fail("a", Op::kWrite, absl::PermissionDeniedError("injected EROFS"));
  for (int i = 0; i < 3; ++i) ASSERT_OK(TryPut("after", 20000));
  EXPECT_EQ(Of("a").state, DirectoryState::kReadOnly);
  ASSERT_OK(Get(id, 20000).status());
}

// What was erased while its first write had failed does not come back with the old disk.
TEST_F(SegmentLogFaultTest, CopiesInAFailedDirectoryStayErased) {
  Open(TwoDirectories());
  Put("first", 1000);
  // The bytes arrive, and yet the device says they did not.
  Fail("a", Op::kSync, absl::DataLossError("injected EIO"));
  RecordId id = 0;
  ASSERT_OK(TryPut("twice", 1000, &id, Sync::kYes));
  failing_.clear();
  ASSERT_EQ(Of("a").state, DirectoryState::kFailed);
  ASSERT_OK(Erase({id}, Sync::kYes));
  // Its second place goes: nothing but the tombstone for the first remains.
  for (int round = 0; round < 8; ++round) {
    std::vector<RecordId> ids;
    for (int i = 0; i < 10; ++i) ids.push_back(Put("filler", 150000));
    ASSERT_OK(Erase(ids));
  }
  ASSERT_GT(log_->Usage().reclaimed_segments, 0u);
  Open(TwoDirectories());
  EXPECT_FALSE(recovered_.contains(id));
  // The segment with the tombstone goes too, its space is of more use.
  while (log_->Usage().reclaimed_segments == 0) std::this_thread::yield();
  Open(TwoDirectories());
  EXPECT_FALSE(recovered_.contains(id));
  EXPECT_EQ(recovered_.size(), 1u);
}

// A segment that cannot be read stays; the log goes on with the others.
TEST_F(SegmentLogFaultTest, WhatCannotBeReadIsNotMoved) {
  Open(Options(6));
  std::vector<RecordId> ids;
  for (int i = 0; i < 32; ++i) ids.push_back(Put("record", 100000));
  Fail("log", Op::kRead, absl::DataLossError("injected EIO"));
  std::vector<RecordId> erased;
  for (size_t i = 0; i < ids.size(); i += 2) erased.push_back(ids[i]);
  ASSERT_OK(Erase(erased));
  for (int i = 0; i < 10; ++i) {
    const absl::Status status = TryPut("more", 100000);
    EXPECT_TRUE(status.ok() || absl::IsResourceExhausted(status)) << status;
  }
  EXPECT_EQ(Get(ids[1], 100000).status().code(), absl::StatusCode::kDataLoss);
  failing_.clear();
  for (size_t i = 1; i < ids.size(); i += 2) ASSERT_OK(Get(ids[i], 100000).status());
}

// The caller may hold a lock that Done takes.
TEST_F(SegmentLogFaultTest, NothingIsAnsweredOnTheCallersThread) {
  Open(Options());
  const RecordId id = Put("before", 20000);
  Fail("log", Op::kWrite, absl::DataLossError("injected EIO"));
  EXPECT_FALSE(TryPut("after", 20000).ok());
  base::Mutex mutex;
  Outcome erased;
  {
    base::MutexLock lock(mutex);
    log_->Erase(std::span(&id, 1), Sync::kYes,
                [&, done = erased.Done()](absl::Status status) mutable {
                  { base::MutexLock held(mutex); }
                  std::move(done)(std::move(status));
                });
  }
  EXPECT_TRUE(absl::IsUnavailable(erased.Await()));
}

// A disk that needs 20 ms for each read would drain for seconds.
TEST_F(SegmentLogFaultTest, TheEndOfALogDoesNotWaitForADrain) {
  std::atomic<int> reads{0};
  FailingIo slow(real_.get(), [&](Op op, const std::string& folder) {
    if (op != Op::kRead || folder != "a") return absl::OkStatus();
    ++reads;
    absl::SleepFor(absl::Milliseconds(20));
    return absl::OkStatus();
  });
  SegmentLogOptions options = TwoDirectories();
  options.directories[1].capacity_bytes = 32 << 20;
  SegmentLogOptions alone = options;
  alone.directories.resize(1);
  auto log = OpenSegmentLog(alone, &slow, &executor_);
  ASSERT_OK(log.status());
  log_ = *std::move(log);
  ASSERT_OK(log_->Recover([](const auto&) {}));
  Records records;
  for (int i = 0; i < 200; ++i) records[Put("record", 50000)] = "record";
  ASSERT_OK(log_->AddDirectory(Folder("b"), 32 << 20));
  Outcome drained;
  log_->DrainDirectory(Folder("a"), drained.Done());
  while (reads == 0) std::this_thread::yield();
  Close();
  EXPECT_EQ(drained.Await().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(reads, 100);
  Open(options);
  EXPECT_EQ(recovered_, records);
}

}  // namespace
}  // namespace varve::tier
