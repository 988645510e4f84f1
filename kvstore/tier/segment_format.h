// The bytes of a segment file: a header block, records, and a footer that lists them. Pure
// functions over memory; docs/page_format.md has the layout in prose.
//
// Everything is little-endian. The header, each record, its payload and the footer begin at
// multiples of the segment's alignment, so that each can be read and written with O_DIRECT. A
// record carries a label, which is its owner's business (key, tenant, codec ...), and a payload.
// What does not belong to this segment, or is torn, fails a checksum: every structure names the
// segment's number, so that blocks of an older life of the file are not taken for records.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace varve::tier {

inline constexpr uint32_t kSegmentVersion = 1;
inline constexpr uint32_t kMinSegmentAlignment = 512;
inline constexpr uint32_t kMaxSegmentAlignment = 65536;
inline constexpr uint64_t kMinSegmentBytes = 1 << 20;
inline constexpr uint64_t kMaxSegmentBytes = 1ull << 32;
inline constexpr uint32_t kMaxLabelBytes = 1 << 20;

struct SegmentHeader {
  uint64_t number = 0;  // no other segment of the store had it
  uint64_t segment_bytes = 0;
  uint32_t alignment = 4096;
  std::array<uint8_t, 16> store_id{};  // whose directory this is
};

enum class RecordKind : uint16_t {
  kValue = 1,
  kTombstone = 2,  // its payload lists records that are gone (Tombstone); no label
};

struct RecordHeader {
  RecordKind kind = RecordKind::kValue;
  uint64_t sequence = 0;  // grows with every record of the store
  uint32_t payload_crc32c = 0;
  uint64_t payload_bytes = 0;
  std::string_view label;
};

// The record `id` is gone, wherever it lies; it lay in `segment`. Of no use once that segment is.
struct Tombstone {
  uint64_t id = 0;
  uint64_t segment = 0;
};
// The payload of a tombstone record.
std::string EncodeTombstones(std::span<const Tombstone> tombstones);
// DATA_LOSS when it is no list of tombstones.
absl::StatusOr<std::vector<Tombstone>> ParseTombstones(std::span<const std::byte> payload);

// Where a record's parts lie, from its beginning.
struct RecordExtent {
  uint64_t payload_offset = 0;
  uint64_t total_bytes = 0;  // the next record begins here
};
RecordExtent ExtentOf(uint32_t label_bytes, uint64_t payload_bytes, uint32_t alignment);

// One block of `alignment` bytes. INVALID_ARGUMENT for a field out of range.
absl::StatusOr<std::string> EncodeSegmentHeader(const SegmentHeader& header);
// DATA_LOSS for what is no segment or is damaged, FAILED_PRECONDITION for another version.
absl::StatusOr<SegmentHeader> ParseSegmentHeader(std::span<const std::byte> block);

// Everything before the payload, padded to the alignment. offset: of the record in the segment.
// label: at most kMaxLabelBytes.
std::string EncodeRecordHeader(const RecordHeader& record, uint64_t offset,
                               const SegmentHeader& segment);
// The record that begins at `at`. NOT_FOUND: none does (the log ends here); DATA_LOSS: its header
// is damaged; OUT_OF_RANGE: it is cut off by the end of `bytes`, or reaches beyond the segment. The
// label is a view into `at`. The payload is not looked at.
absl::StatusOr<RecordHeader> ParseRecordHeader(std::span<const std::byte> at, uint64_t offset,
                                               const SegmentHeader& segment);

// What the footer says of a record.
struct FooterEntry {
  uint64_t offset = 0;  // of the record in the segment
  RecordKind kind = RecordKind::kValue;
  uint64_t sequence = 0;
  uint32_t payload_crc32c = 0;
  uint64_t payload_bytes = 0;
  std::string label;
};

// Bytes that the footer of so many entries takes, padded, its closing block included.
uint64_t FooterBytes(size_t entries, uint64_t label_bytes, uint32_t alignment);
// The footer, padded so that it ends with the closing block: the last block of the segment.
std::string EncodeFooter(std::span<const FooterEntry> entries, const SegmentHeader& segment);
// Where the footer begins, from the segment's last `alignment` bytes; nothing when the segment was
// not sealed. DATA_LOSS when the closing block is damaged, FAILED_PRECONDITION when it is of
// another version.
absl::StatusOr<std::optional<uint64_t>> FindFooter(std::span<const std::byte> last_block,
                                                   const SegmentHeader& segment);
// bytes: from where FindFooter says to the segment's end. DATA_LOSS when anything of it is wrong.
absl::StatusOr<std::vector<FooterEntry>> ParseFooter(std::span<const std::byte> bytes,
                                                     const SegmentHeader& segment);

}  // namespace varve::tier
