#include "kvstore/tier/segment_log.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/tier/segment_format.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using SegmentLogTest = LogTest;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

TEST_F(SegmentLogTest, RecordsAreReadAsTheyWereAppended) {
  Open(Options());
  std::map<RecordId, std::pair<std::string, size_t>> records;
  for (const size_t bytes : {0, 1, 4095, 4096, 4097, 65536, 300000, 900000}) {
    for (const size_t label : {0, 5, 700, 9000}) {
      if (bytes == 900000 && label > 5) continue;
      const std::string text = std::to_string(bytes) + std::string(label, 'x');
      records[Put(text, bytes, bytes % 2 ? Sync::kYes : Sync::kNo)] = {text, bytes};
    }
  }
  for (const auto& [id, record] : records) {
    const auto read = Get(id, record.second);
    ASSERT_OK(read.status());
    EXPECT_TRUE(*read == PayloadOf(record.first, record.second)) << record.second;
  }
  const LogUsage usage = log_->Usage();
  EXPECT_EQ(usage.records, records.size());
  EXPECT_EQ(usage.pending_bytes, 0u);
  EXPECT_LE(usage.live_bytes, usage.usable_bytes);
  Open(Options());
  ASSERT_EQ(recovered_.size(), records.size());
  for (const auto& [id, record] : records) {
    EXPECT_EQ(recovered_[id], record.first);
    EXPECT_EQ(recovered_bytes_[id], record.second);
    const auto read = Get(id, record.second);
    ASSERT_OK(read.status());
    EXPECT_TRUE(*read == PayloadOf(record.first, record.second)) << record.second;
  }
  EXPECT_EQ(log_->Usage().damaged_records, 0u);
}

TEST_F(SegmentLogTest, ErasedRecordsAreGoneForGood) {
  Open(Options());
  const RecordId kept = Put("kept", 5000), gone = Put("gone", 5000);
  ASSERT_OK(Erase({gone, 12345}, Sync::kYes));
  EXPECT_EQ(Get(gone, 5000).status().code(), absl::StatusCode::kNotFound);
  ASSERT_OK(Get(kept, 5000).status());
  Open(Options());
  EXPECT_EQ(recovered_, (Records{{kept, "kept"}}));
  EXPECT_GT(Put("next", 1), gone);
}

TEST_F(SegmentLogTest, ARecordErasedBeforeItIsWrittenWasNeverThere) {
  Open(Options());
  std::vector<RecordId> ids;
  std::vector<Outcome> outcomes(200);
  const std::string payload = PayloadOf("x", 20000);
  for (Outcome& outcome : outcomes) {
    ids.push_back(
        log_->Append({"x", std::as_bytes(std::span(payload)), CrcOf(payload)}, outcome.Done()));
    Outcome erased;
    log_->Erase(std::span(ids).last(1), Sync::kNo, erased.Done());
    if (ids.size() % 10 == 0) ASSERT_OK(erased.Await());
  }
  for (Outcome& outcome : outcomes) ASSERT_OK(outcome.Await());
  EXPECT_EQ(log_->Usage().records, 0u);
  EXPECT_EQ(log_->Usage().live_bytes, 0u);
  Open(Options());
  EXPECT_EQ(recovered_, Records{});
}

TEST_F(SegmentLogTest, BadRequestsAreRefused) {
  Open(Options());
  const std::string payload(1 << 20, 'x');
  Outcome large;
  log_->Append({"x", std::as_bytes(std::span(payload)), 0}, large.Done());
  EXPECT_EQ(large.Await().code(), absl::StatusCode::kInvalidArgument);
  Outcome label;
  log_->Append({std::string(kMaxLabelBytes + 1, 'x'), {}, 0}, label.Done());
  EXPECT_EQ(label.Await().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Get(77, 1).status().code(), absl::StatusCode::kNotFound);
  ASSERT_OK(Erase({}));
  std::byte odd[7];
  Outcome unaligned;
  log_->Read(Put("x", 10), 0, odd, IoClass::kDemand, unaligned.Done());
  EXPECT_EQ(unaligned.Await().code(), absl::StatusCode::kInvalidArgument);
}

// What waits for no disk is done by the caller's thread, or one of the log, then.
TEST_F(SegmentLogTest, AnInlineExecutorWillDo) {
  base::InlineExecutor here;
  auto log = OpenSegmentLog(Options(6), io_.get(), &here);
  ASSERT_OK(log.status());
  log_ = *std::move(log);
  ASSERT_OK(log_->Recover([](const auto&) {}));
  std::vector<RecordId> ids;
  for (int i = 0; i < 100; ++i) {
    ids.push_back(Put("x", 150000, i % 10 == 0 ? Sync::kYes : Sync::kNo));
    if (ids.size() < 20) continue;
    const RecordId victim = ids[ids.size() / 2];
    ASSERT_OK(Erase({victim}));
    std::erase(ids, victim);
  }
  for (const RecordId id : ids) ASSERT_OK(Get(id, 150000).status());
  EXPECT_GT(log_->Usage().moved_bytes, 0u);
  Open(Options(6));
  EXPECT_EQ(recovered_.size(), ids.size());
}

TEST_F(SegmentLogTest, BadOptionsAreRefused) {
  const auto refusal = [&](const SegmentLogOptions& options) {
    return Text(OpenSegmentLog(options, io_.get(), &executor_).status());
  };
  SegmentLogOptions options = Options();
  options.directories.clear();
  EXPECT_THAT(refusal(options), HasSubstr("no directory"));
  EXPECT_THAT(refusal(Options(3)), HasSubstr("capacity_bytes is 3145728"));
  options = Options();
  options.segment_bytes = 1000;
  EXPECT_THAT(refusal(options), HasSubstr("segment_bytes is 1000"));
  options = Options();
  options.write_buffer_bytes = 5000;
  EXPECT_THAT(refusal(options), HasSubstr("write_buffer_bytes is 5000"));
  options = Options();
  options.write_buffers = 0;
  EXPECT_THAT(refusal(options), HasSubstr("write_buffers is 0"));
  options = Options();
  options.queue_depth = 0;
  EXPECT_THAT(refusal(options), HasSubstr("queue_depth is 0"));
  options = Options();
  options.directories[0].path = Folder("no/such");
  EXPECT_THAT(refusal(options), HasSubstr("no/such"));
}

TEST_F(SegmentLogTest, ADirectoryHasOneOwner) {
  Open(Options());
  const absl::Status second = OpenSegmentLog(Options(), io_.get(), &executor_).status();
  EXPECT_EQ(second.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(second), HasSubstr("in use"));
  EXPECT_EQ(log_->AddDirectory(Folder("log"), 16 << 20).code(),
            absl::StatusCode::kFailedPrecondition);
}

// However it is called: that is no other process.
TEST_F(SegmentLogTest, ADirectoryIsTakenOnce) {
  Open(Options());
  std::filesystem::create_directory_symlink(Folder("log"), Folder("link"));
  const absl::Status again = log_->AddDirectory(Folder("log"), 16 << 20);
  EXPECT_EQ(again.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(again), HasSubstr("/log is one of the directories already"));
  for (const char* name : {"link", "link/../log", "./log/"}) {
    const absl::Status other = log_->AddDirectory(Folder(name), 16 << 20);
    EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Text(other), HasSubstr("is the same as " + Folder("log")));
  }
  Close();
  SegmentLogOptions options = Options();
  options.directories.push_back({Folder("link"), 16 << 20});
  const absl::Status twice = OpenSegmentLog(options, io_.get(), &executor_).status();
  EXPECT_EQ(twice.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(twice), HasSubstr("is the same as " + Folder("log")));
}

TEST_F(SegmentLogTest, TheLastDirectoryIsNotDrained) {
  Open(Options());
  Put("x", 100);
  Outcome alone;
  log_->DrainDirectory(Folder("log"), alone.Done());
  EXPECT_EQ(alone.Await().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(alone.Await()), AllOf(HasSubstr("is the only directory that takes writes"),
                                         HasSubstr("add another one first")));
  ASSERT_OK(log_->AddDirectory(Folder("other"), 16 << 20));
  Outcome drained;
  log_->DrainDirectory(Folder("log"), drained.Done());
  ASSERT_OK(drained.Await());
}

TEST_F(SegmentLogTest, ADirectoryOfAnotherLogIsRefused) {
  SegmentLogOptions other = Options();
  other.directories[0].path = Folder("other");
  Open(other);
  Put("x", 1);
  Open(Options());
  Put("x", 1);
  Close();
  SegmentLogOptions both = Options();
  both.directories.push_back(other.directories[0]);
  const absl::Status status = OpenSegmentLog(both, io_.get(), &executor_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(status), AllOf(HasSubstr(Folder("other") + " belongs to the log"),
                                  HasSubstr("start with the directories of one of them")));
  Open(Options());
  EXPECT_EQ(log_->AddDirectory(Folder("other"), 16 << 20).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SegmentLogTest, MoreThanFitsIsRefusedAndTheLogGoesOn) {
  Open(Options(6));
  std::vector<RecordId> ids;
  absl::Status status;
  const std::string payload = PayloadOf("x", 100000);
  while (status.ok() && ids.size() < 1000) {
    Outcome outcome;
    ids.push_back(
        log_->Append({"x", std::as_bytes(std::span(payload)), CrcOf(payload)}, outcome.Done()));
    status = outcome.Await();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(ids.size(), 30u);
  ids.pop_back();
  for (int round = 0; round < 30; ++round) {
    // Where there is no room without it, room is waited for.
    ASSERT_OK(Erase({ids.begin(), ids.begin() + 15}));
    ids.erase(ids.begin(), ids.begin() + 15);
    for (int i = 0; i < 12; ++i) ids.push_back(Put("y", 90000));
    while (ids.size() > 33) {
      ASSERT_OK(Erase({ids.front()}));
      ids.erase(ids.begin());
    }
    while (ids.size() < 30) ids.push_back(Put("z", 1000));
  }
}

TEST_F(SegmentLogTest, SegmentsWithNothingLiveComeBack) {
  Open(Options(6));
  for (int round = 0; round < 10; ++round) {
    std::vector<RecordId> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(Put("x", 150000));
    ASSERT_OK(Erase(ids, Sync::kYes));
  }
  const LogUsage usage = log_->Usage();
  EXPECT_EQ(usage.live_bytes, 0u);
  EXPECT_EQ(usage.records, 0u);
  EXPECT_GT(usage.reclaimed_segments, 20u);
}

TEST_F(SegmentLogTest, ADirectoryIsDrainedIntoTheOthers) {
  SegmentLogOptions options = Options();
  options.directories = {{Folder("a"), 16 << 20}, {Folder("b"), 16 << 20}};
  Open(options);
  Records records;
  for (int i = 0; i < 60; ++i) {
    const std::string label = "record " + std::to_string(i);
    records[Put(label, 100000)] = label;
  }
  std::vector<RecordId> gone;
  for (int i = 0; i < 20; ++i) {
    gone.push_back(records.begin()->first);
    records.erase(records.begin());
  }
  ASSERT_OK(Erase(gone));
  Outcome missing, drained;
  log_->DrainDirectory(Folder("c"), missing.Done());
  EXPECT_EQ(missing.Await().code(), absl::StatusCode::kNotFound);
  log_->DrainDirectory(Folder("a"), drained.Done());
  for (int i = 0; i < 10; ++i) records[Put("meanwhile", 5000)] = "meanwhile";
  ASSERT_OK(drained.Await());
  EXPECT_TRUE(std::filesystem::is_empty(Folder("a")));
  ASSERT_EQ(log_->Usage().directories.size(), 1u);
  for (const auto& [id, label] : records) {
    const size_t bytes = label == "meanwhile" ? 5000 : 100000;
    const auto read = Get(id, bytes);
    ASSERT_OK(read.status());
    EXPECT_TRUE(*read == PayloadOf(label, bytes));
  }
  // The last one stays, and one that is added takes its part again.
  Outcome last;
  log_->DrainDirectory(Folder("b"), last.Done());
  EXPECT_EQ(last.Await().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_OK(log_->AddDirectory(Folder("a"), 16 << 20));
  for (int i = 0; i < 10; ++i) records[Put("after", 5000)] = "after";
  EXPECT_GT(log_->Usage().directories[1].records, 0u);
  Open(options);
  EXPECT_EQ(recovered_, records);
}

}  // namespace
}  // namespace varve::tier
