// Logs in folders of their own for tests, with calls that wait, and payloads that are known by
// their record's label.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kvstore/base/executor.h"
#include "kvstore/tier/block_io.h"
#include "kvstore/tier/segment_log.h"

namespace varve::tier {

// A status that arrives on another thread.
class Outcome {
 public:
  RecordLog::Done Done();
  absl::Status Await();
  bool over() const;

 private:
  struct State;
  std::shared_ptr<State> state_ = MakeState();
  static std::shared_ptr<State> MakeState();
};

// The payload that belongs to a label: the same bytes each time.
std::string PayloadOf(const std::string& label, size_t bytes);
uint32_t CrcOf(const std::string& payload);

// Starts log_child.cc with these words; its standard output goes to fd. The process's id.
pid_t StartLogChild(const std::vector<std::string>& words, int fd);
// What it exits with where no file system can be mounted.
inline constexpr int kCannotMount = 77;

class LogTest : public ::testing::Test {
 protected:
  using Records = std::map<RecordId, std::string>;  // labels

  void SetUp() override;
  void TearDown() override;

  std::string Folder(const std::string& name) const { return folder_ + "/" + name; }
  // One directory, "log", of so many segments of 1 MiB.
  SegmentLogOptions Options(uint64_t segments = 16) const;
  // Closes the open log and opens it again; fills recovered_.
  void Open(const SegmentLogOptions& options);
  void Close() { log_.reset(); }

  // The log's directory as a crash now would leave it, in a folder of its own: options for it. Only
  // while no reclaim is under way.
  SegmentLogOptions Copy(const SegmentLogOptions& options, const std::string& name) const;

  // `bytes` of payload, which lives until the log is closed; waits.
  RecordId Put(const std::string& label, size_t bytes, Sync sync = Sync::kNo);
  absl::StatusOr<std::string> Get(RecordId id, size_t bytes);
  absl::Status Erase(std::vector<RecordId> ids, Sync sync = Sync::kNo);

  std::string folder_;
  std::unique_ptr<BlockIo> io_;
  base::ThreadPool executor_{"log", 2};
  std::unique_ptr<RecordLog> log_;
  Records recovered_;
  std::map<RecordId, uint64_t> recovered_bytes_;
};

}  // namespace varve::tier
