// Appends of records to a segment log on a disk, as the store makes them.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/bench/measure.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"
#include "kvstore/tier/segment_log.h"

namespace varve::client {

class AppendStream {
 public:
  // A log in a folder of `directory`, which is removed with the stream. bytes: of its files, at
  // least 64 MiB, and eight times what is appended at once. buffers: writes at once, of 1 MiB.
  // payload: of every record; it and io outlive
  // the stream.
  static absl::StatusOr<std::unique_ptr<AppendStream>> Open(const std::string& directory,
                                                            uint64_t bytes, uint32_t buffers,
                                                            tier::BlockIo* io,
                                                            std::span<const std::byte> payload);
  ~AppendStream();
  AppendStream(const AppendStream&) = delete;
  AppendStream& operator=(const AppendStream&) = delete;

  // Keeps `depth` appends under way; the oldest records go when half of the log is full. Rates are
  // of payloads. CANCELLED by a signal.
  absl::Status RunFor(uint32_t depth, double seconds, Series& series);
  // So many appends that every segment was written once.
  absl::Status RunOver(uint32_t depth);

 private:
  AppendStream(std::string folder, std::span<const std::byte> payload);

  absl::Status Run(uint32_t depth, uint64_t operations, double until, Series& series);
  void Next();
  std::vector<tier::RecordId> TakeOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::string folder_;
  const std::span<const std::byte> payload_;
  const uint32_t payload_crc32c_;
  base::ThreadPool executor_{"log", 2};

  base::Mutex mutex_;
  base::CondVar ended_;
  uint64_t max_records_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<tier::RecordId> records_ ABSL_GUARDED_BY(mutex_);
  uint64_t operations_left_ ABSL_GUARDED_BY(mutex_) = 0;
  double until_ ABSL_GUARDED_BY(mutex_) = 0;
  uint32_t lanes_ ABSL_GUARDED_BY(mutex_) = 0;    // with an append under way
  uint32_t erasing_ ABSL_GUARDED_BY(mutex_) = 0;  // calls of Erase under way
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::vector<double> latencies_ ABSL_GUARDED_BY(mutex_);

  std::unique_ptr<tier::RecordLog> log_;
};

}  // namespace varve::client
