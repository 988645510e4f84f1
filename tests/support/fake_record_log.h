// A RecordLog in memory whose operations end when the test says so, in an order of its choice, and
// fail when it says so. What a crash leaves is what has ended.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kvstore/base/executor.h"
#include "kvstore/tier/record_log.h"

namespace varve::tier {

class FakeRecordLog : public RecordLog {
 public:
  struct Record {
    std::string label;
    std::vector<std::byte> payload;
  };

  explicit FakeRecordLog(uint64_t usable_bytes) : usable_bytes_(usable_bytes) {}
  // What a process that starts after a crash finds.
  std::unique_ptr<FakeRecordLog> AfterCrash() const {
    auto log = std::make_unique<FakeRecordLog>(usable_bytes_);
    log->records_ = durable_;
    log->durable_ = durable_;
    log->next_id_ = next_id_;
    return log;
  }

  // ---- by the test
  size_t pending() const { return operations_.size(); }
  // Ends the i-th operation under way.
  void End(size_t i) {
    base::Task task = std::move(operations_[i]);
    operations_.erase(operations_.begin() + static_cast<long>(i));
    std::move(task)();
  }
  void EndAll() {
    while (!operations_.empty()) End(0);
  }
  // From now on what is asked for ends at once.
  void EndAtOnce() { at_once_ = true; }
  // The next appends or reads end with this.
  void FailAppends(int count, absl::Status status) {
    fail_appends_ = count;
    append_error_ = std::move(status);
  }
  void FailReads(int count, absl::Status status) {
    fail_reads_ = count;
    read_error_ = std::move(status);
  }
  // There is less room than the usable bytes tell: the first append that finds none finds out.
  void HasRoomFor(uint64_t bytes) { room_bytes_ = bytes; }
  void SetState(DirectoryState state) { state_ = state; }
  std::map<RecordId, Record>& records() { return records_; }

  // ---- RecordLog
  absl::Status Recover(absl::FunctionRef<void(const Recovered&)> fn) override {
    for (const auto& [id, record] : records_) fn({id, record.label, record.payload.size()});
    return absl::OkStatus();
  }
  RecordId Append(AppendRequest request, Done done) override {
    const RecordId id = next_id_++;
    pending_bytes_ += request.payload.size();
    operations_.push_back([this, id, request = std::move(request),
                           done = std::move(done)]() mutable {
      pending_bytes_ -= request.payload.size();
      absl::Status status;
      if (fail_appends_ > 0) {
        --fail_appends_;
        status = append_error_;
      } else if (Live() + request.payload.size() > std::min(usable_bytes_, room_bytes_)) {
        usable_bytes_ = std::min(usable_bytes_, room_bytes_);
        status = absl::ResourceExhaustedError("the log is full");
      } else if (!erased_.contains(id)) {
        Record record{std::move(request.label), {request.payload.begin(), request.payload.end()}};
        durable_[id] = record;
        records_[id] = std::move(record);
      }
      std::move(done)(std::move(status));
    });
    if (at_once_) EndAll();
    return id;
  }
  void Read(RecordId id, uint64_t offset, std::span<std::byte> to, IoClass, Done done) override {
    operations_.push_back([this, id, offset, to, done = std::move(done)]() mutable {
      const auto found = records_.find(id);
      if (found == records_.end()) return std::move(done)(absl::NotFoundError("no record"));
      if (fail_reads_ > 0) {
        --fail_reads_;
        return std::move(done)(read_error_);
      }
      const std::vector<std::byte>& payload = found->second.payload;
      std::fill(to.begin(), to.end(), std::byte{0xee});
      if (offset < payload.size()) {
        std::memcpy(to.data(), payload.data() + offset,
                    std::min(to.size(), payload.size() - offset));
      }
      std::move(done)(absl::OkStatus());
    });
    if (at_once_) EndAll();
  }
  void Erase(std::span<const RecordId> ids, Sync, Done done) override {
    std::vector<RecordId> gone(ids.begin(), ids.end());
    for (RecordId id : gone) {
      records_.erase(id);
      erased_.insert(id);
    }
    operations_.push_back([this, gone = std::move(gone), done = std::move(done)]() mutable {
      for (RecordId id : gone) durable_.erase(id);
      std::move(done)(absl::OkStatus());
    });
    if (at_once_) EndAll();
  }
  void Tick() override {}
  LogRoom Room() const override {
    return {.usable_bytes = usable_bytes_,
            .live_bytes = Live(),
            .taken_bytes = Live() + pending_bytes_,
            .pending_bytes = pending_bytes_,
            .takes_writes = state_ == DirectoryState::kOk};
  }
  LogUsage Usage() const override {
    LogUsage usage;
    static_cast<LogRoom&>(usage) = Room();
    usage.used_bytes = usage.live_bytes;
    usage.records = records_.size();
    DirectoryUsage directory;
    directory.path = "fake";
    directory.state = state_;
    usage.directories.push_back(directory);
    return usage;
  }
  absl::Status AddDirectory(const std::string&, uint64_t) override {
    return absl::UnimplementedError("one directory");
  }
  void DrainDirectory(const std::string&, Done done) override {
    std::move(done)(absl::UnimplementedError("one directory"));
  }

 private:
  uint64_t Live() const {
    uint64_t bytes = 0;
    for (const auto& [id, record] : records_) bytes += record.payload.size();
    return bytes;
  }

  uint64_t usable_bytes_;
  uint64_t room_bytes_ = UINT64_MAX;
  RecordId next_id_ = 1;
  std::map<RecordId, Record> records_;  // as this process sees them
  std::map<RecordId, Record> durable_;  // as the next one will
  std::set<RecordId> erased_;
  std::deque<base::Task> operations_;
  uint64_t pending_bytes_ = 0;
  bool at_once_ = false;
  int fail_appends_ = 0, fail_reads_ = 0;
  absl::Status append_error_, read_error_;
  DirectoryState state_ = DirectoryState::kOk;
};

}  // namespace varve::tier
