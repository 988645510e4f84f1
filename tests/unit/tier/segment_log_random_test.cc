// Random operations against a plain map, with segments so small that reclaim never rests.
#include <algorithm>
#include <filesystem>
#include <random>

#include "gtest/gtest.h"
#include "tests/support/assert_ok.h"
#include "tests/unit/tier/log_fixture.h"

namespace varve::tier {
namespace {

class SegmentLogRandomTest : public LogTest, public ::testing::WithParamInterface<bool> {
 protected:
  struct Written {
    std::string label;
    size_t bytes = 0;
    bool operator==(const Written&) const = default;
  };

  void AppendOne() {
    const size_t bytes = random_() % 4 == 0 ? random_() % 100000 : random_() % 20000;
    ++count_;
    const std::string label = std::to_string(count_) +
                              std::string(random_() % 3000, static_cast<char>('a' + count_ % 26));
    const LogUsage usage = log_->Usage();
    // As eviction does it: old ones go before new ones come.
    while (log_->Usage().live_bytes + bytes + 20000 > usage.usable_bytes * 9 / 10) EraseSome(1);
    const std::string payload = PayloadOf(label, bytes);
    const Sync sync = random_() % 8 == 0 ? Sync::kYes : Sync::kNo;
    for (;;) {
      Outcome outcome;
      const RecordId id = log_->Append(
          {label, std::as_bytes(std::span(payload)), CrcOf(payload), sync}, outcome.Done());
      EXPECT_GT(id, last_id_);
      last_id_ = id;
      const absl::Status status = outcome.Await();
      if (status.ok()) break;
      // Large records leave ends that nothing fits into.
      ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
      ASSERT_GT(log_->Usage().live_bytes, usage.usable_bytes * 7 / 10);
      ++refused_;
      EraseSome(1);
    }
    const RecordId id = last_id_;
    records_[id] = {label, bytes};
  }

  void EraseSome(size_t count) {
    std::vector<RecordId> ids;
    for (size_t i = 0; i < count && !records_.empty(); ++i) {
      auto at = records_.lower_bound(random_() % (last_id_ + 1));
      if (random_() % 2 == 0 || at == records_.end()) at = records_.begin();
      ids.push_back(at->first);
      gone_.push_back(at->first);
      records_.erase(at);
    }
    ASSERT_OK(Erase(ids, random_() % 4 == 0 ? Sync::kYes : Sync::kNo));
  }

  void CheckOne() {
    if (records_.empty()) return;
    auto at = records_.lower_bound(random_() % (last_id_ + 1));
    if (at == records_.end()) at = records_.begin();
    const auto read = Get(at->first, at->second.bytes);
    ASSERT_OK(read.status());
    ASSERT_TRUE(*read == PayloadOf(at->second.label, at->second.bytes));
    if (!gone_.empty()) {
      const RecordId gone = gone_[random_() % gone_.size()];
      EXPECT_EQ(Get(gone, 1).status().code(), absl::StatusCode::kNotFound);
    }
  }

  void CheckRecovered() {
    std::map<RecordId, Written> found;
    for (const auto& [id, label] : recovered_) found[id] = {label, recovered_bytes_[id]};
    EXPECT_EQ(found, records_);
    EXPECT_EQ(log_->Usage().damaged_records, 0u);
  }

  static std::vector<std::string> Names(const std::string& folder) {
    std::vector<std::string> names;
    for (const auto& file : std::filesystem::directory_iterator(folder)) {
      names.push_back(file.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // A copy during which no segment came or went: what a crash can leave.
  static void CopyUndisturbed(const std::string& from, const std::string& to) {
    for (;;) {
      std::filesystem::remove_all(to);
      const std::vector<std::string> names = Names(from);
      std::error_code error;
      std::filesystem::copy(from, to, error);
      if (!error && Names(from) == names) return;
    }
  }

  // Counted while no segment came or went.
  uint64_t DiskBytes(const std::string& folder) const {
    for (;;) {
      const uint64_t before = log_->Usage().reclaimed_segments;
      uint64_t bytes = 0;
      std::error_code error;
      for (const auto& file : std::filesystem::directory_iterator(folder)) {
        if (file.path().extension() != ".seg") continue;
        const uint64_t of_file = file.file_size(error);
        if (!error) bytes += of_file;
      }
      if (log_->Usage().reclaimed_segments == before) return bytes;
    }
  }

  std::mt19937_64 random_{20261121};
  std::map<RecordId, Written> records_;
  std::vector<RecordId> gone_;
  RecordId last_id_ = 0;
  uint64_t count_ = 0;
  int refused_ = 0;
};

// true: every other time the log is not closed; its files are copied as they are.
TEST_P(SegmentLogRandomTest, ALogIsAMapThatLasts) {
  SegmentLogOptions options = Options(6);
  Open(options);
  uint64_t reclaimed = 0;
  for (int life = 0; life < 6; ++life) {
    for (int step = 0; step < 300; ++step) {
      switch (random_() % 8) {
        case 0:
          EraseSome(random_() % 6);
          break;
        case 1:
        case 2:
          CheckOne();
          break;
        default:
          AppendOne();
      }
      if (HasFatalFailure()) return;
      if (step % 50 == 0) {
        EXPECT_LE(DiskBytes(options.directories[0].path), options.directories[0].capacity_bytes);
      }
    }
    reclaimed += log_->Usage().reclaimed_segments;
    if (GetParam() && life % 2 == 1) {
      const std::string next = Folder("life" + std::to_string(life));
      CopyUndisturbed(options.directories[0].path, next);
      const std::string before = std::exchange(options.directories[0].path, next);
      Open(options);
      std::filesystem::remove_all(before);
    } else {
      Open(options);
    }
    CheckRecovered();
  }
  EXPECT_GT(reclaimed, 50u);
  EXPECT_LT(refused_, 100);
}

INSTANTIATE_TEST_SUITE_P(Crashes, SegmentLogRandomTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Copied" : "Closed"; });

}  // namespace
}  // namespace varve::tier
