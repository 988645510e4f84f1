// Directories that are not there at a start, and lists that say which there are.
#include "kvstore/tier/directory_set.h"

#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/page/checksum.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

using testing::HasSubstr;

// The layout is fixed: these bytes are on disks.
TEST(DirectorySet, TheBytesOfVersion1) {
  DirectorySet set;
  set.store_id.fill(0x11);
  set.own.fill(0x22);
  set.generation = 3;
  set.members = {{set.own, "/a"}, {set.store_id, ""}};
  const std::string bytes = EncodeDirectorySet(set);
  ASSERT_EQ(bytes.size(), 64u + 22 + 20);
  EXPECT_EQ(bytes.substr(0, 12), std::string("VARVESET\1\0\0\0", 12));
  EXPECT_EQ(bytes.substr(16, 32), std::string(16, 0x11) + std::string(16, 0x22));
  EXPECT_EQ(bytes.substr(48, 16), std::string("\3\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0", 16));
  EXPECT_EQ(bytes.substr(64, 22), std::string(16, 0x22) + std::string("\2\0\0\0/a", 6));
  const auto parsed = ParseDirectorySet(bytes);
  ASSERT_OK(parsed.status());
  EXPECT_EQ(*parsed, set);
  for (size_t i = 0; i < bytes.size(); ++i) {
    std::string changed = bytes;
    changed[i] ^= 4;
    EXPECT_FALSE(ParseDirectorySet(changed).ok()) << i;
    EXPECT_FALSE(ParseDirectorySet(bytes.substr(0, i)).ok()) << i;
  }
  std::string other = bytes;
  other[8] = 2;
  std::memset(other.data() + 12, 0, 4);
  const uint32_t crc = page::Crc32c(other.data(), other.size());
  std::memcpy(other.data() + 12, &crc, 4);
  EXPECT_EQ(ParseDirectorySet(other).status().code(), absl::StatusCode::kFailedPrecondition);
}

class DirectorySetTest : public LogTest {
 protected:
  SegmentLogOptions With(const std::vector<std::string>& names, uint64_t a_segments = 48) const {
    SegmentLogOptions options = Options();
    options.directories.clear();
    // Tombstones go where there is more room.
    for (const std::string& name : names) {
      options.directories.push_back({Folder(name), (name == "a" ? a_segments : 16) << 20});
    }
    return options;
  }
  absl::Status TryToOpen(const SegmentLogOptions& options) {
    log_.reset();
    return OpenSegmentLog(options, io_.get(), &executor_).status();
  }
  // Records in a and b.
  void Fill() {
    Open(With({"a", "b"}, 16));
    for (int i = 0; i < 80; ++i) {
      const std::string label = "record " + std::to_string(i);
      records_[Put(label, 100000)] = label;
    }
    Open(With({"b"}));
    in_b_ = recovered_;
    ASSERT_GT(in_b_.size(), 10u);
    ASSERT_LT(in_b_.size(), 70u);
    Open(With({"a", "b"}));
    ASSERT_EQ(recovered_, records_);
  }
  // Half of what lies in b; its segments stay.
  void EraseInB() {
    std::vector<RecordId> gone;
    bool erase = false;
    for (const auto& [id, label] : in_b_) {
      erase = !erase;
      if (!erase) continue;
      gone.push_back(id);
      records_.erase(id);
    }
    ASSERT_OK(Erase(gone));
  }
  // Waits until so many segments have gone since the start.
  void AwaitReclaimed(uint64_t segments) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (log_->Usage().reclaimed_segments < segments) {
      ASSERT_LT(std::chrono::steady_clock::now(), limit);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  std::vector<DirectoryUsage> Absent() const {
    std::vector<DirectoryUsage> absent;
    for (const DirectoryUsage& usage : log_->Usage().directories) {
      if (usage.state == DirectoryState::kAbsent) absent.push_back(usage);
    }
    return absent;
  }
  absl::Status Drain(const std::string& path) {
    Outcome outcome;
    log_->DrainDirectory(path, outcome.Done());
    return outcome.Await();
  }

  Records records_, in_b_;
};

TEST_F(DirectorySetTest, WhatWasRemovedStaysSoWhenItsDirectoryComesBack) {
  Fill();
  EraseInB();
  for (int start = 0; start < 2; ++start) {
    Open(With({"a"}));
    ASSERT_EQ(Absent().size(), 1u);
    EXPECT_EQ(Absent()[0].path, Folder("b"));
    // That of the tombstones goes, and they go on.
    AwaitReclaimed(1);
  }
  Open(With({"a", "b"}));
  EXPECT_EQ(recovered_, records_);
  EXPECT_TRUE(Absent().empty());
}

// The directory with the tombstones is the one that is away, and the other moves its records on.
TEST_F(DirectorySetTest, WhatComesBackWithoutItsTombstonesGoesAgain) {
  Fill();
  EraseInB();
  Open(With({"b"}));
  EXPECT_EQ(recovered_, in_b_);  // also what was removed
  // Its segments are emptied but for a few, which are moved when space is short.
  std::vector<RecordId> gone;
  size_t left = 0;
  for (const auto& [id, label] : in_b_) {
    if (++left % 5 == 1) continue;
    gone.push_back(id);
    records_.erase(id);
  }
  ASSERT_OK(Erase(gone));
  for (int round = 0; round < 100 && log_->Usage().moved_bytes < 500000; ++round) {
    gone.clear();
    for (int i = 0; i < 10; ++i) gone.push_back(Put("filler", 100000));
    gone.resize(5);  // more live than where those few lie
    ASSERT_OK(Erase(gone));
  }
  ASSERT_GE(log_->Usage().moved_bytes, 500000u);
  for (int start = 0; start < 3; ++start) {
    Open(With({"a", "b"}));
    for (const auto& [id, label] : in_b_) {
      EXPECT_EQ(recovered_.contains(id), records_.contains(id)) << label << ", start " << start;
    }
    AwaitReclaimed(1);  // that of the tombstones
  }
}

TEST_F(DirectorySetTest, OneThatIsAwayCanBeGivenUp) {
  Fill();
  Open(With({"a"}));
  ASSERT_EQ(Absent().size(), 1u);
  EXPECT_EQ(Drain(Folder("c")).code(), absl::StatusCode::kNotFound);
  ASSERT_OK(Drain(Folder("b")));
  EXPECT_TRUE(Absent().empty());
  Open(With({"a"}));
  EXPECT_TRUE(Absent().empty());
  // It may have what was removed since.
  const absl::Status back = TryToOpen(With({"a", "b"}));
  EXPECT_EQ(back.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(back.message()), HasSubstr(Folder("b")));
  std::filesystem::remove_all(Folder("b"));
  Open(With({"a", "b"}));
  EXPECT_TRUE(Absent().empty());
}

// As when a disk is not mounted.
TEST_F(DirectorySetTest, AnEmptyDirectoryInItsPlaceIsAnother) {
  Fill();
  EraseInB();
  Close();
  std::filesystem::rename(Folder("b"), Folder("away"));
  Open(With({"a", "b"}));
  ASSERT_EQ(Absent().size(), 1u);
  EXPECT_THAT(Absent()[0].path, testing::StartsWith(Folder("b") + "#"));
  Close();
  std::filesystem::remove_all(Folder("b"));
  std::filesystem::rename(Folder("away"), Folder("b"));
  Open(With({"a", "b"}));
  EXPECT_EQ(recovered_, records_);
  ASSERT_EQ(Absent().size(), 1u);  // the empty one
  ASSERT_OK(Drain(Absent()[0].path));
  EXPECT_TRUE(Absent().empty());
}

// As it is shown, however it was named when it was there.
TEST_F(DirectorySetTest, OneThatIsAwayIsGivenUpByItsPlainName) {
  SegmentLogOptions options = With({"a"});
  options.directories.push_back({Folder("./b/"), 16 << 20});
  Open(options);
  Open(With({"a"}));
  ASSERT_EQ(Absent().size(), 1u);
  EXPECT_EQ(Absent()[0].path, Folder("b"));
  ASSERT_OK(Drain(Folder("b")));
  EXPECT_TRUE(Absent().empty());
}

TEST_F(DirectorySetTest, AListThatIsDamagedOrMovedIsNoObstacle) {
  Fill();
  Close();
  std::ofstream(Folder("b") + "/varve.set") << "nonsense";
  Open(With({"a", "b"}));
  EXPECT_EQ(recovered_, records_);
  EXPECT_TRUE(Absent().empty());
  Close();
  std::filesystem::rename(Folder("b"), Folder("c"));
  Open(With({"a", "c"}));
  EXPECT_EQ(recovered_, records_);
  EXPECT_TRUE(Absent().empty());
  Open(With({"a"}));
  ASSERT_EQ(Absent().size(), 1u);
  EXPECT_EQ(Absent()[0].path, Folder("c"));
}

TEST_F(DirectorySetTest, WhatIsAddedAndDrainedIsKnownToAll) {
  Open(With({"a"}));
  ASSERT_OK(log_->AddDirectory(Folder("b"), 16 << 20));
  Put("one", 1000);
  Open(With({"a"}));
  EXPECT_EQ(Absent().size(), 1u);
  Open(With({"a", "b"}));
  ASSERT_OK(Drain(Folder("b")));
  EXPECT_TRUE(std::filesystem::is_empty(Folder("b")));
  Open(With({"a"}));
  EXPECT_TRUE(Absent().empty());
}

// However often the log starts without one of its directories, 64 bits are enough for its ids: they
// grow with the time.
TEST_F(DirectorySetTest, IdsLastForEveryStartWithoutADirectory) {
  Fill();
  RecordId last = records_.rbegin()->first;
  for (int start = 0; start < 5; ++start) {
    Open(With({"a"}));
    const RecordId id = Put("next", 1000);
    EXPECT_GT(id, last);
    if (start > 0) {
      EXPECT_LT(id - last, uint64_t{1} << 40) << "that is, 2^24 such starts";
    }
    last = id;
  }
}

// Numbers that parts of the directories give go well together.
TEST_F(DirectorySetTest, PartsThatWereUsedApartAreUsedTogether) {
  Fill();
  for (int round = 0; round < 3; ++round) {
    for (const char* part : {"a", "b"}) {
      Open(With({part}));
      for (int i = 0; i < 5; ++i) records_[Put("apart", 1000)] = "apart";
    }
  }
  Open(With({"a", "b"}));
  EXPECT_EQ(recovered_, records_);
}

}  // namespace
}  // namespace varve::tier
