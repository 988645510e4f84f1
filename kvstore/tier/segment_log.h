// A RecordLog in segment files (segment_format.h; prose in docs/page_format.md) on one or several
// directories.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
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
};

// Opens the directories and takes them for this process alone (FAILED_PRECONDITION: another has
// them, or they belong to another log); PERMISSION_DENIED for one that cannot be written to.
// io and executor outlive the log; writing and reclaim run on the executor.
absl::StatusOr<std::unique_ptr<RecordLog>> OpenSegmentLog(const SegmentLogOptions& options,
                                                          BlockIo* io, base::Executor* executor);

}  // namespace varve::tier
