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
  std::vector<FooterEntry> records;  // values; the payloads of footers' records were not read
  std::vector<Tombstone> tombstones;
  uint64_t last_sequence = 0;
  uint64_t damaged_records = 0;  // torn, or their bytes changed
};

// Blocks; from any thread, also several at a time. What cannot be read counts as damaged.
// RESOURCE_EXHAUSTED: no memory.
absl::StatusOr<SegmentContents> ReadSegment(BlockIo* io, int fd, const SegmentHeader& header);

}  // namespace varve::tier
