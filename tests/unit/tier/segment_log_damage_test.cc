// Files that a crash or a bad disk left behind.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/base/descriptor.h"
#include "kvstore/tier/faulty_io.h"
#include "kvstore/tier/segment_scan.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

class SegmentLogDamageTest : public LogTest {
 protected:
  struct Found {
    std::string file;
    uint64_t offset = 0;  // of the record
    RecordExtent extent;
    uint64_t payload_bytes = 0;
  };

  static std::vector<std::string> Segments(const std::string& folder) {
    std::vector<std::string> files;
    for (const auto& file : std::filesystem::directory_iterator(folder)) {
      if (file.path().extension() == ".seg") files.push_back(file.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  // Not of a file that the log is just making or removing.
  bool HasFooter(const std::string& file) {
    const base::Descriptor fd(open(file.c_str(), O_RDONLY));
    const auto header = HeaderOf(fd);
    if (!header.ok()) return false;
    const auto contents = ReadSegment(io_.get(), fd.get(), *header);
    return contents.ok() && contents->footer;
  }

  static absl::StatusOr<SegmentHeader> HeaderOf(const base::Descriptor& fd) {
    std::string block(4096, '\0');
    if (pread(fd.get(), block.data(), block.size(), 0) < 0) {
      return absl::NotFoundError("the segment cannot be read");
    }
    return ParseSegmentHeader(std::as_bytes(std::span(block)));
  }

  std::pair<SegmentHeader, SegmentContents> Read(const std::string& file) {
    const base::Descriptor fd(open(file.c_str(), O_RDONLY));
    const auto header = HeaderOf(fd);
    EXPECT_TRUE(header.ok()) << header.status();
    const auto contents = ReadSegment(io_.get(), fd.get(), *header);
    EXPECT_TRUE(contents.ok()) << contents.status();
    return {*header, *contents};
  }

  // Where the values of a folder lie, by id.
  std::map<RecordId, Found> Places(const std::string& folder) {
    std::map<RecordId, Found> places;
    for (const std::string& file : Segments(folder)) {
      const auto [header, contents] = Read(file);
      for (const FooterEntry& entry : contents.records) {
        places[entry.sequence] = {file, entry.offset,
                                  ExtentOf(static_cast<uint32_t>(entry.label.size()),
                                           entry.payload_bytes, header.alignment),
                                  entry.payload_bytes};
      }
    }
    return places;
  }

  static void FlipByte(const std::string& file, uint64_t offset, uint8_t bits) {
    std::fstream at(file, std::ios::in | std::ios::out | std::ios::binary);
    at.seekg(static_cast<std::streamoff>(offset));
    const auto byte = static_cast<char>(at.get() ^ bits);
    at.seekp(static_cast<std::streamoff>(offset));
    at.put(byte);
  }

  // Some records, one of which was erased.
  void Fill(int records) {
    for (int i = 0; i < records; ++i) {
      const std::string label = "record " + std::to_string(i);
      ids_.push_back(Put(label, Bytes(i)));
      labels_[ids_.back()] = label;
    }
    gone_ = Put("gone", 3000);
    ASSERT_OK(Erase({gone_}));
  }
  static size_t Bytes(int i) { return i * 3001 % 50000 + 1; }

  void ExpectAllBut(RecordId missing) {
    Records expected = labels_;
    expected.erase(missing);
    EXPECT_EQ(recovered_, expected);
    for (size_t i = 0; i < ids_.size(); ++i) {
      if (ids_[i] == missing) continue;
      const auto read = Get(ids_[i], Bytes(static_cast<int>(i)));
      ASSERT_OK(read.status());
      EXPECT_TRUE(*read == PayloadOf(labels_[ids_[i]], Bytes(static_cast<int>(i)))) << i;
    }
  }

  std::vector<RecordId> ids_;
  Records labels_;
  RecordId gone_ = 0;
};

TEST_F(SegmentLogDamageTest, WhatWasWrittenOutlivesACrash) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(60);
  const SegmentLogOptions copy = Copy(options, "copy");
  Open(copy);
  ExpectAllBut(0);
  EXPECT_EQ(log_->Usage().damaged_records, 0u);
  // And the next one.
  const RecordId next = Put("next", 100);
  labels_[next] = "next";
  Open(Copy(copy, "copy2"));
  ExpectAllBut(0);
}

// Records at the end and in the middle, torn or changed: they alone are missed.
TEST_F(SegmentLogDamageTest, TornRecordsAreLeftOut) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(12);
  const SegmentLogOptions crashed = Copy(options, "crashed");
  for (const size_t victim : {0, 5, 11}) {
    for (const bool header : {true, false}) {
      const SegmentLogOptions copy = Copy(crashed, "copy");
      const Found place = Places(copy.directories[0].path).at(ids_[victim]);
      FlipByte(place.file,
               place.offset + (header ? 26 : place.extent.payload_offset + place.payload_bytes / 2),
               0x10);
      Open(copy);
      ExpectAllBut(ids_[victim]);
      EXPECT_EQ(log_->Usage().damaged_records, 1u) << victim << header;
      Close();
    }
  }
  // The file ends inside the last record.
  const SegmentLogOptions copy = Copy(crashed, "copy");
  const Found last = Places(copy.directories[0].path).at(ids_.back());
  ASSERT_EQ(
      truncate(last.file.c_str(), static_cast<off_t>(last.offset + last.extent.payload_offset)), 0);
  Open(copy);
  ExpectAllBut(ids_.back());
}

TEST_F(SegmentLogDamageTest, ADamagedHeaderOrFooterCostsNoRecord) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(12);
  Close();
  for (const bool footer : {true, false}) {
    const SegmentLogOptions copy = Copy(options, "copy");
    for (const std::string& file : Segments(copy.directories[0].path)) {
      const uint64_t bytes = std::filesystem::file_size(file);
      // The closing block, wherever the alignment puts it, or the header's checksum.
      for (uint64_t at = footer ? bytes - 4096 + 12 : 12; at < (footer ? bytes : 512); at += 512) {
        FlipByte(file, at, 0x01);
      }
    }
    Open(copy);
    ExpectAllBut(0);
    Close();
  }
}

TEST_F(SegmentLogDamageTest, ASegmentWithoutAHeaderYetIsNoObstacle) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(3);
  Close();
  std::ofstream(Folder("log/77.seg")).close();
  std::filesystem::resize_file(Folder("log/77.seg"), 1 << 20);
  Open(options);
  ExpectAllBut(0);
  EXPECT_EQ(log_->Usage().damaged_records, 0u);
}

TEST_F(SegmentLogDamageTest, ASegmentThatIsCutOffIsCounted) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(3);
  const SegmentLogOptions copy = Copy(options, "copy");
  std::ofstream(Folder("copy/78.seg")).close();
  Open(copy);
  ExpectAllBut(0);
  EXPECT_EQ(log_->Usage().damaged_records, 1u);
}

TEST_F(SegmentLogDamageTest, WhatIsNoFileIsLeftWhereItIs) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(3);
  Close();
  std::filesystem::create_directory(Folder("log/77.seg"));
  ASSERT_EQ(mkfifo(Folder("log/78.seg").c_str(), 0600), 0);
  for (int start = 0; start < 2; ++start) {
    Open(options);
    ExpectAllBut(0);
    EXPECT_EQ(log_->Usage().damaged_records, 2u);
    ids_.push_back(Put("record " + std::to_string(ids_.size()), Bytes(ids_.size())));
    labels_[ids_.back()] = "record " + std::to_string(ids_.size() - 1);
  }
  EXPECT_TRUE(std::filesystem::is_directory(Folder("log/77.seg")));
}

// Under a number of its own: it is kept, and is no segment any more.
TEST_F(SegmentLogDamageTest, ACopyOfASegmentIsSetAside) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(12);
  Close();
  std::filesystem::copy(Segments(Folder("log"))[0], Folder("log/77.seg"));
  const auto bytes = std::filesystem::file_size(Folder("log/77.seg"));
  Open(options);
  ExpectAllBut(0);
  EXPECT_EQ(log_->Usage().damaged_records, 1u);
  EXPECT_EQ(std::filesystem::file_size(Folder("log/77.seg.aside")), bytes);
  Open(options);
  ExpectAllBut(0);
  EXPECT_EQ(log_->Usage().damaged_records, 0u);
  EXPECT_TRUE(std::filesystem::exists(Folder("log/77.seg.aside")));
}

// Under its own number in another directory: the one with the later records counts.
TEST_F(SegmentLogDamageTest, OfTwoFilesOfOneSegmentTheLaterOneCounts) {
  for (const bool copy_first : {false, true}) {
    SegmentLogOptions options = Options();
    const std::string at = copy_first ? "first" : "second";
    options.directories = {{Folder(at + "/a"), 16 << 20}, {Folder(at + "/b"), 16 << 20}};
    ASSERT_TRUE(std::filesystem::create_directory(Folder(at)));
    ids_.clear();
    labels_.clear();
    Open(options);
    Fill(4);
    std::string file, folder = Folder(at + "/a");
    if (Segments(folder).empty()) folder = Folder(at + "/b");
    file = Segments(folder)[0];
    const std::string other = folder == Folder(at + "/a") ? Folder(at + "/b") : Folder(at + "/a");
    const std::string name = std::filesystem::path(file).filename();
    std::filesystem::copy(file, Folder("copy-" + at));
    for (int i = 4; i < 12; ++i) {
      ids_.push_back(Put("record " + std::to_string(i), Bytes(i)));
      labels_[ids_.back()] = "record " + std::to_string(i);
    }
    Close();
    std::filesystem::rename(Folder("copy-" + at), other + "/" + name);
    if ((options.directories[0].path == other) != copy_first) {
      std::swap(options.directories[0], options.directories[1]);
    }
    Open(options);
    ExpectAllBut(0);
    EXPECT_EQ(log_->Usage().damaged_records, 1u);
    EXPECT_TRUE(std::filesystem::exists(other + "/" + name + ".aside"));
    EXPECT_FALSE(std::filesystem::exists(file + ".aside"));
  }
}

// Which of the two was used last cannot be told.
TEST_F(SegmentLogDamageTest, ACopyOfADirectoryIsRefused) {
  SegmentLogOptions options = Options();
  Open(options);
  Fill(3);
  Close();
  options.directories.push_back(Copy(options, "copy").directories[0]);
  const absl::Status both = OpenSegmentLog(options, io_.get(), &executor_).status();
  EXPECT_EQ(both.code(), absl::StatusCode::kFailedPrecondition) << both;
  EXPECT_THAT(std::string(both.message()),
              testing::HasSubstr(Folder("copy") + " is a copy of " + Folder("log")));
  EXPECT_FALSE(std::filesystem::exists(Segments(Folder("copy"))[0] + ".aside"));
  options.directories.pop_back();
  Open(options);
  ExpectAllBut(0);
}

// EIO: once, at its first block; and wherever it is read.
TEST_F(SegmentLogDamageTest, ASegmentThatCannotBeReadIsLeftOutAndKept) {
  auto own = std::make_unique<FaultyIo>(std::move(io_));
  FaultyIo& faulty = *own;
  io_ = std::move(own);
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(12);
  Open(options);  // another segment for the rest
  for (int i = 12; i < 16; ++i) {
    ids_.push_back(Put("record " + std::to_string(i), Bytes(i)));
    labels_[ids_.back()] = "record " + std::to_string(i);
  }
  Close();
  const std::string file = Places(Folder("log")).at(ids_[0]).file;
  faulty.Add({.op = IoOp::kRead, .path = file, .times = 1});
  Open(options);
  ExpectAllBut(0);
  EXPECT_EQ(log_->Usage().damaged_records, 1u);
  Close();
  faulty.Add({.op = IoOp::kRead, .path = file, .times = UINT64_MAX});
  Open(options);
  EXPECT_FALSE(recovered_.contains(ids_[0]));
  EXPECT_TRUE(recovered_.contains(ids_[15]));
  EXPECT_GE(log_->Usage().damaged_records, 1u);
  // Reclaim works, and leaves what may be readable again.
  std::vector<RecordId> fillers;
  for (int i = 0; i < 30; ++i) fillers.push_back(Put("filler", 100000));
  ASSERT_OK(Erase(fillers));
  while (log_->Usage().reclaimed_segments == 0) std::this_thread::yield();
  EXPECT_TRUE(std::filesystem::exists(file));
  faulty.Clear();
  Open(options);
  ExpectAllBut(0);
}

// A version that is not whole is no other version: with its bits go no records, and no start.
TEST_F(SegmentLogDamageTest, AChangedVersionIsDamage) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(12);
  Close();
  for (const bool of_set : {false, true}) {
    const SegmentLogOptions copy = Copy(options, "copy");
    const std::string& folder = copy.directories[0].path;
    FlipByte(of_set ? folder + "/varve.set" : Segments(folder)[0], 9, 0x20);
    Open(copy);
    ExpectAllBut(0);
    Close();
  }
}

// Once scanned, a segment has a footer: the next start does not read it through again.
TEST_F(SegmentLogDamageTest, WhatACrashLeftIsSealedAtTheNextStart) {
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(12);
  const SegmentLogOptions copy = Copy(options, "copy");
  const auto footers = [&] {
    size_t with = 0, without = 0;
    for (const std::string& file : Segments(copy.directories[0].path)) {
      ++(HasFooter(file) ? with : without);
    }
    return std::pair(with, without);
  };
  ASSERT_GT(footers().second, 0u);
  // A torn record behind the others is no obstacle.
  const Found last = Places(copy.directories[0].path).at(ids_.back());
  FlipByte(last.file, last.offset + last.extent.payload_offset, 0x01);
  Open(copy);
  ExpectAllBut(ids_.back());
  // What is empty is removed instead, in its own time.
  for (const absl::Time end = absl::Now() + absl::Seconds(20);
       footers().second > 0 && absl::Now() < end;) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  Close();
  EXPECT_EQ(footers().second, 0u);
  Open(copy);
  ExpectAllBut(ids_.back());
  EXPECT_EQ(log_->Usage().damaged_records, 0u) << "nothing was scanned";
  // What was erased before the crash stays so.
  EXPECT_FALSE(Get(gone_, 3000).ok());
}

// Whatever bits change, what comes back is a record that was there once, under its own label.
TEST_F(SegmentLogDamageTest, FlippedBitsInventNothing) {
  constexpr uint64_t kSeed = 4711;
  SCOPED_TRACE(kSeed);
  std::mt19937_64 random(kSeed);
  const SegmentLogOptions options = Options();
  Open(options);
  Fill(25);  // one segment, without a footer as yet
  const SegmentLogOptions crashed = Copy(options, "crashed");
  Close();
  std::map<RecordId, std::pair<std::string, size_t>> written = {{gone_, {"gone", 3000}}};
  for (size_t i = 0; i < ids_.size(); ++i) {
    written[ids_[i]] = {labels_[ids_[i]], Bytes(static_cast<int>(i))};
  }
  uint64_t damaged = 0;
  for (int round = 0; round < 30; ++round) {
    const bool sealed = round % 2 == 0;
    const SegmentLogOptions copy = Copy(sealed ? options : crashed, "copy");
    const std::vector<std::string> files = Segments(copy.directories[0].path);
    for (uint64_t flips = random() % 200; flips > 0; --flips) {
      const std::string& file = files[random() % files.size()];
      FlipByte(file, random() % std::filesystem::file_size(file),
               static_cast<uint8_t>(1 << random() % 8));
    }
    Open(copy);
    if (HasFatalFailure()) return;
    for (const auto& [id, label] : recovered_) {
      ASSERT_TRUE(written.contains(id)) << id;
      EXPECT_EQ(label, written[id].first);
      EXPECT_EQ(recovered_bytes_[id], written[id].second);
      const auto read = Get(id, written[id].second);
      ASSERT_OK(read.status());
      if (!sealed) {
        EXPECT_TRUE(*read == PayloadOf(label, written[id].second)) << id;
      }
    }
    damaged += log_->Usage().damaged_records;
    Close();
  }
  EXPECT_GT(damaged, 50u);
}

}  // namespace
}  // namespace varve::tier
