// Logs that have less room than their files: for moving records there is always some.
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class SegmentLogRoomTest : public LogTest {
 protected:
  static constexpr size_t kBytes = 100'000;

  // Every second one of these has gone again.
  void PutHalf(int records) {
    std::vector<RecordId> gone;
    for (int i = 0; i < records; ++i) {
      const RecordId id = Put("half", kBytes);
      if (i % 2 == 0) {
        live_.push_back(id);
      } else {
        gone.push_back(id);
      }
    }
    ASSERT_OK(Erase(gone, Sync::kYes));
  }
  absl::Status TryPut() {
    const std::string payload = PayloadOf("late", kBytes);
    Outcome outcome;
    const RecordId id =
        log_->Append({"late", std::as_bytes(std::span(payload)), CrcOf(payload)}, outcome.Done());
    const absl::Status status = outcome.Await();
    if (status.ok()) late_.push_back(id);
    return status;
  }
  void ExpectAllThere() {
    for (const RecordId id : live_) {
      const auto read = Get(id, kBytes);
      ASSERT_OK(read.status());
      EXPECT_TRUE(*read == PayloadOf("half", kBytes)) << id;
    }
    for (const RecordId id : late_) {
      const auto read = Get(id, kBytes);
      ASSERT_OK(read.status());
      EXPECT_TRUE(*read == PayloadOf("late", kBytes)) << id;
    }
  }
  // In a file system of its own.
  void ExpectChildDoes(const std::string& what) {
    std::filesystem::create_directory(Folder("small"));
    const pid_t child = StartLogChild({what, Folder("small")}, STDOUT_FILENO);
    ASSERT_GE(child, 0);
    int result = 0;
    ASSERT_EQ(waitpid(child, &result, 0), child);
    ASSERT_TRUE(WIFEXITED(result)) << result;
    if (WEXITSTATUS(result) == kCannotMount) {
      std::cerr << "no file system can be mounted here: not tried\n";
      return;
    }
    EXPECT_EQ(WEXITSTATUS(result), 0);
  }
  uint64_t UsedBytes() const { return log_->Usage().directories[0].used_bytes; }
  // What the files take.
  static uint64_t BytesIn(const std::string& folder) {
    uint64_t bytes = 0;
    for (const auto& file : std::filesystem::directory_iterator(folder)) bytes += file.file_size();
    return bytes;
  }

  std::vector<RecordId> live_, late_;
};

TEST_F(SegmentLogRoomTest, ASmallerCapacityIsReachedByMovingRecords) {
  Open(Options(24));
  PutHalf(200);
  ASSERT_GT(UsedBytes(), 20u << 20);
  Close();
  Open(Options(14));  // 10 MiB are live
  for (const absl::Time end = absl::Now() + absl::Seconds(30);
       UsedBytes() > 14 << 20 && absl::Now() < end;) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_LE(UsedBytes(), 14u << 20);
  for (int i = 0; i < 10; ++i) ASSERT_OK(TryPut());
  ExpectAllThere();
  Open(Options(14));
  EXPECT_EQ(recovered_.size(), live_.size() + late_.size());
  ExpectAllThere();
}

TEST_F(SegmentLogRoomTest, TheSpareFileIsWithinTheCapacity) {
  Open(Options(8));
  while (TryPut().ok()) {
  }
  EXPECT_LE(BytesIn(Folder("log")), (8u << 20) + 4096);
  std::vector<RecordId> gone;
  for (size_t i = 0; i < late_.size(); i += 2) gone.push_back(late_[i]);
  ASSERT_OK(Erase(gone));
  std::erase_if(late_, [&](RecordId id) { return std::ranges::count(gone, id) > 0; });
  for (int i = 0; i < 10; ++i) ASSERT_OK(TryPut());
  EXPECT_LE(BytesIn(Folder("log")), (8u << 20) + 4096);
  ExpectAllThere();
}

TEST_F(SegmentLogRoomTest, ALostSpareFileIsMadeAnew) {
  Open(Options(8));
  PutHalf(50);
  // It may just be in use for moving records.
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (!std::filesystem::remove(Folder("log/varve.spare")) && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  while (TryPut().ok()) {
  }
  EXPECT_GT(late_.size(), 10u) << "what half the records left";
  EXPECT_TRUE(std::filesystem::exists(Folder("log/varve.spare")));
  ExpectAllThere();
}

TEST_F(SegmentLogRoomTest, SegmentsOfAnotherSizeAreRefused) {
  SegmentLogOptions options = Options(32);
  options.segment_bytes = 4 << 20;
  Open(options);
  Put("small", 1000);
  Close();
  for (const uint64_t bytes : {2 << 20, 8 << 20}) {
    options.segment_bytes = bytes;
    const absl::Status refused = OpenSegmentLog(options, io_.get(), &executor_).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(refused.message(), AllOf(HasSubstr("4194304"), HasSubstr(std::to_string(bytes)),
                                         HasSubstr("nvme_tier.segment_bytes")));
  }
  options.segment_bytes = 4 << 20;
  Open(options);
  EXPECT_EQ(recovered_.size(), 1u);
}

TEST_F(SegmentLogRoomTest, AFullFileSystemIsFullUntilRecordsGo) { ExpectChildDoes("fill"); }

TEST_F(SegmentLogRoomTest, RoomForMovingIsKeptFromOthersOfTheFileSystem) {
  ExpectChildDoes("others-fill");
}

TEST_F(SegmentLogRoomTest, RoomThatOthersGiveBackIsUsed) { ExpectChildDoes("start-full"); }

}  // namespace
}  // namespace varve::tier
