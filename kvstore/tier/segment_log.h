// A RecordLog in segment files (segment_format.h; prose in docs/page_format.md) on one or several
// directories.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kvstore/base/executor.h"
#include "kvstore/tier/record_log.h"

namespace varve::tier {

struct LogDirectory {
  std::string path;  // made when its parent exists
  uint64_t capacity_bytes = 0;
};

struct SegmentLogOptions {
  std::vector<LogDirectory> directories;  // at least one
  uint64_t segment_bytes = 256 << 20;
  uint64_t write_buffer_bytes = 1 << 20;  // bytes of one write, at most
  uint32_t write_buffers = 8;             // of each directory
  uint32_t queue_depth = 64;              // operations of each directory at a time
  // A directory is slow while one of its operations has been with the disk for so long.
  absl::Duration slow_after = absl::Seconds(5);
};

// Opens the directories and takes them for this process alone (FAILED_PRECONDITION: another has
// them, or they belong to another log); PERMISSION_DENIED for one that cannot be written to.
// io and executor outlive the log. io takes queue_depth operations of each directory at a time, or
// one that hangs holds up the others. Each directory has threads of its own for writing and
// reclaim, which may wait for its disk; what waits for no disk runs on the executor.
absl::StatusOr<std::unique_ptr<RecordLog>> OpenSegmentLog(const SegmentLogOptions& options,
                                                          BlockIo* io, base::Executor* executor);

}  // namespace varve::tier
