// What a segment file holds, read at start: from its footer, or record by record where there is
// none.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kvstore/tier/block_io.h"
#include "kvstore/tier/segment_format.h"

namespace varve::tier {

struct SegmentContents {
  bool footer = false;
  bool cut_off = false;              // the file is shorter than the segment
  bool unreadable = false;           // the device did not give all that was asked for
  std::vector<FooterEntry> records;  // values; the payloads of footers' records were not read
  std::vector<Tombstone> tombstones;
  std::vector<FooterEntry> tombstone_records;  // what lists them
  uint64_t end_bytes = 0;                      // of the last record that was found
  uint64_t greatest_bytes = 0;                 // that a record takes
  uint64_t last_sequence = 0;
  uint64_t damaged_records = 0;  // torn, or their bytes changed
};

// Blocks; from any thread, also several at a time. What cannot be read counts as damaged.
// RESOURCE_EXHAUSTED: no memory.
absl::StatusOr<SegmentContents> ReadSegment(BlockIo* io, int fd, const SegmentHeader& header);

}  // namespace varve::tier
