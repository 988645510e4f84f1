#include "kvstore/tier/segment_format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kvstore/base/status.h"
#include "kvstore/page/checksum.h"

namespace varve::tier {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr char kSegmentMagic[8] = {'V', 'A', 'R', 'V', 'E', 'S', 'E', 'G'};
constexpr char kFooterMagic[8] = {'V', 'A', 'R', 'V', 'E', 'E', 'N', 'D'};
constexpr uint32_t kRecordMagic = 0x43455256;  // "VREC"

// Each checksum covers the structure with the checksum's own field as zero.
struct SegmentBlock {
  char magic[8];
  uint32_t version;
  uint32_t crc32c;
  uint64_t number;
  uint64_t segment_bytes;
  uint32_t alignment;
  uint32_t zero;
  uint8_t store_id[16];
};
static_assert(sizeof(SegmentBlock) == 56);

struct RecordBlock {
  uint32_t magic;
  uint16_t version;
  uint16_t kind;
  uint32_t crc32c;  // of this and the label
  uint32_t payload_crc32c;
  uint64_t segment;
  uint64_t sequence;
  uint64_t payload_bytes;
  uint32_t label_bytes;
  uint32_t zero;
  uint64_t offset;  // in the segment
  uint64_t zeros;
};
static_assert(sizeof(RecordBlock) == 64);

struct EntryBlock {
  uint64_t offset;
  uint64_t sequence;
  uint64_t payload_bytes;
  uint32_t payload_crc32c;
  uint32_t label_bytes;
  uint16_t kind;
  uint16_t zero[3];
};
static_assert(sizeof(EntryBlock) == 40);

// The closing block.
struct FooterBlock {
  char magic[8];
  uint32_t version;
  uint32_t crc32c;  // of this
  uint64_t segment;
  uint64_t entries;
  uint64_t entry_bytes;  // of all entries with their labels
  uint64_t offset;       // of the first entry in the segment
  uint32_t entries_crc32c;
  uint32_t zero;
};
static_assert(sizeof(FooterBlock) == 56);

static_assert(sizeof(Tombstone) == 16, "stored as it is");

uint64_t RoundUp(uint64_t bytes, uint32_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

template <typename Block>
Block Load(std::span<const std::byte> bytes) {
  Block block;
  std::memcpy(&block, bytes.data(), sizeof(block));
  return block;
}

template <typename Block>
void Append(std::string& out, const Block& block) {
  out.append(reinterpret_cast<const char*>(&block), sizeof(block));
}

// Of the block with crc32c as zero, followed by `rest`.
template <typename Block>
uint32_t Checksum(Block block, std::string_view rest = "") {
  block.crc32c = 0;
  return page::Crc32c(rest.data(), rest.size(), page::Crc32c(&block, sizeof(block)));
}

std::string_view View(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool IsAlignment(uint32_t alignment) {
  return std::has_single_bit(alignment) && alignment >= kMinSegmentAlignment &&
         alignment <= kMaxSegmentAlignment;
}

bool IsKind(uint16_t kind) {
  return kind == static_cast<uint16_t>(RecordKind::kValue) ||
         kind == static_cast<uint16_t>(RecordKind::kTombstone);
}

absl::Status OtherVersion(uint32_t version) {
  return absl::FailedPreconditionError(absl::StrCat(
      "segment format version ", version, "; this program reads version ", kSegmentVersion));
}

absl::Status Damaged(const SegmentHeader& segment, uint64_t offset, const char* what) {
  return absl::DataLossError(
      absl::StrCat("segment ", segment.number, ": the ", what, " at ", offset, " is damaged"));
}

}  // namespace

RecordExtent ExtentOf(uint32_t label_bytes, uint64_t payload_bytes, uint32_t alignment) {
  RecordExtent extent;
  extent.payload_offset = RoundUp(sizeof(RecordBlock) + label_bytes, alignment);
  extent.total_bytes = extent.payload_offset + RoundUp(payload_bytes, alignment);
  return extent;
}

// ---- the segment's header

absl::StatusOr<std::string> EncodeSegmentHeader(const SegmentHeader& header) {
  if (!IsAlignment(header.alignment)) {
    return absl::InvalidArgumentError(
        absl::StrCat("alignment is ", header.alignment, ", allowed: powers of two, ",
                     kMinSegmentAlignment, "..", kMaxSegmentAlignment));
  }
  if (header.segment_bytes < kMinSegmentBytes || header.segment_bytes > kMaxSegmentBytes ||
      header.segment_bytes % header.alignment != 0) {
    return absl::InvalidArgumentError(absl::StrCat("segment_bytes is ", header.segment_bytes,
                                                   ", allowed: multiples of ", header.alignment,
                                                   ", ", kMinSegmentBytes, "..", kMaxSegmentBytes));
  }
  SegmentBlock block{};
  std::memcpy(block.magic, kSegmentMagic, sizeof(block.magic));
  block.version = kSegmentVersion;
  block.number = header.number;
  block.segment_bytes = header.segment_bytes;
  block.alignment = header.alignment;
  std::memcpy(block.store_id, header.store_id.data(), sizeof(block.store_id));
  block.crc32c = Checksum(block);
  std::string out;
  Append(out, block);
  out.resize(header.alignment);
  return out;
}

absl::StatusOr<SegmentHeader> ParseSegmentHeader(std::span<const std::byte> block) {
  if (block.size() < sizeof(SegmentBlock)) return absl::DataLossError("too short for a segment");
  const auto found = Load<SegmentBlock>(block);
  if (std::memcmp(found.magic, kSegmentMagic, sizeof(found.magic)) != 0) {
    return absl::DataLossError("no segment of varve-store");
  }
  // The checksum first, and of any version: a changed bit is no other version.
  const bool whole = found.crc32c == Checksum(found);
  if (whole && found.version != kSegmentVersion) return OtherVersion(found.version);
  if (!whole || !IsAlignment(found.alignment) || found.segment_bytes < kMinSegmentBytes ||
      found.segment_bytes > kMaxSegmentBytes || found.segment_bytes % found.alignment != 0) {
    return absl::DataLossError("the header of the segment is damaged");
  }
  SegmentHeader header;
  header.number = found.number;
  header.segment_bytes = found.segment_bytes;
  header.alignment = found.alignment;
  std::memcpy(header.store_id.data(), found.store_id, sizeof(found.store_id));
  return header;
}

// ---- records

std::string EncodeRecordHeader(const RecordHeader& record, uint64_t offset,
                               const SegmentHeader& segment) {
  RecordBlock block{};
  block.magic = kRecordMagic;
  block.version = kSegmentVersion;
  block.kind = static_cast<uint16_t>(record.kind);
  block.payload_crc32c = record.payload_crc32c;
  block.segment = segment.number;
  block.sequence = record.sequence;
  block.payload_bytes = record.payload_bytes;
  block.label_bytes = static_cast<uint32_t>(record.label.size());
  block.offset = offset;
  block.crc32c = Checksum(block, record.label);
  std::string out;
  Append(out, block);
  out.append(record.label);
  out.resize(ExtentOf(block.label_bytes, 0, segment.alignment).payload_offset);
  return out;
}

absl::StatusOr<RecordHeader> ParseRecordHeader(std::span<const std::byte> at, uint64_t offset,
                                               const SegmentHeader& segment) {
  const auto cut = [&] {
    return absl::OutOfRangeError(
        absl::StrCat("segment ", segment.number, ": the record at ", offset, " is cut off"));
  };
  if (at.size() < sizeof(RecordBlock)) return cut();
  const auto found = Load<RecordBlock>(at);
  // Of another life of the file, or never written.
  if (found.magic != kRecordMagic || found.segment != segment.number || found.offset != offset) {
    return absl::NotFoundError(absl::StrCat("segment ", segment.number, ": no record at ", offset));
  }
  if (found.version != kSegmentVersion || !IsKind(found.kind) ||
      found.label_bytes > kMaxLabelBytes || found.payload_bytes > segment.segment_bytes) {
    return Damaged(segment, offset, "header of the record");
  }
  if (at.size() < sizeof(RecordBlock) + found.label_bytes) return cut();
  RecordHeader record;
  record.label = View(at.subspan(sizeof(RecordBlock), found.label_bytes));
  if (found.crc32c != Checksum(found, record.label)) {
    return Damaged(segment, offset, "header of the record");
  }
  const RecordExtent extent = ExtentOf(found.label_bytes, found.payload_bytes, segment.alignment);
  if (offset > segment.segment_bytes || extent.total_bytes > segment.segment_bytes - offset) {
    return cut();
  }
  record.kind = static_cast<RecordKind>(found.kind);
  record.sequence = found.sequence;
  record.payload_crc32c = found.payload_crc32c;
  record.payload_bytes = found.payload_bytes;
  return record;
}

std::string EncodeTombstones(std::span<const Tombstone> tombstones) {
  return std::string(View(std::as_bytes(tombstones)));
}

absl::StatusOr<std::vector<Tombstone>> ParseTombstones(std::span<const std::byte> payload) {
  if (payload.size() % sizeof(Tombstone) != 0) {
    return absl::DataLossError(
        absl::StrCat("tombstones of ", payload.size(), " bytes: not a whole number of them"));
  }
  std::vector<Tombstone> tombstones(payload.size() / sizeof(Tombstone));
  if (!payload.empty()) std::memcpy(tombstones.data(), payload.data(), payload.size());
  return tombstones;
}

// ---- the footer

uint64_t FooterBytes(size_t entries, uint64_t label_bytes, uint32_t alignment) {
  return RoundUp(entries * sizeof(EntryBlock) + label_bytes, alignment) + alignment;
}

std::string EncodeFooter(std::span<const FooterEntry> entries, const SegmentHeader& segment) {
  std::string out;
  for (const FooterEntry& entry : entries) {
    EntryBlock block{};
    block.offset = entry.offset;
    block.sequence = entry.sequence;
    block.payload_bytes = entry.payload_bytes;
    block.payload_crc32c = entry.payload_crc32c;
    block.label_bytes = static_cast<uint32_t>(entry.label.size());
    block.kind = static_cast<uint16_t>(entry.kind);
    Append(out, block);
    out.append(entry.label);
  }
  FooterBlock footer{};
  std::memcpy(footer.magic, kFooterMagic, sizeof(footer.magic));
  footer.version = kSegmentVersion;
  footer.segment = segment.number;
  footer.entries = entries.size();
  footer.entry_bytes = out.size();
  footer.entries_crc32c = page::Crc32c(out.data(), out.size());
  out.resize(RoundUp(out.size(), segment.alignment));
  footer.offset = segment.segment_bytes - out.size() - segment.alignment;
  footer.crc32c = Checksum(footer);
  Append(out, footer);
  out.resize(RoundUp(out.size(), segment.alignment));
  return out;
}

absl::StatusOr<std::optional<uint64_t>> FindFooter(std::span<const std::byte> last_block,
                                                   const SegmentHeader& segment) {
  const uint64_t at = segment.segment_bytes - segment.alignment;
  if (last_block.size() < sizeof(FooterBlock)) return Damaged(segment, at, "footer");
  const auto footer = Load<FooterBlock>(last_block);
  if (std::memcmp(footer.magic, kFooterMagic, sizeof(footer.magic)) != 0 ||
      footer.segment != segment.number) {
    return std::nullopt;
  }
  const bool whole = footer.crc32c == Checksum(footer);
  if (whole && footer.version != kSegmentVersion) return OtherVersion(footer.version);
  if (!whole || footer.offset > at || footer.offset % segment.alignment != 0 ||
      footer.entry_bytes > at - footer.offset) {
    return Damaged(segment, at, "footer");
  }
  return footer.offset;
}

absl::StatusOr<std::vector<FooterEntry>> ParseFooter(std::span<const std::byte> bytes,
                                                     const SegmentHeader& segment) {
  const uint64_t begin = segment.segment_bytes - bytes.size();
  const absl::Status damaged = Damaged(segment, begin, "footer");
  if (bytes.size() < segment.alignment || bytes.size() > segment.segment_bytes) return damaged;
  VARVE_ASSIGN_OR_RETURN(const auto offset, FindFooter(bytes.last(segment.alignment), segment));
  if (offset != begin) return damaged;
  const auto footer = Load<FooterBlock>(bytes.last(segment.alignment));
  std::span<const std::byte> left = bytes.first(footer.entry_bytes);
  if (page::Crc32c(left.data(), left.size()) != footer.entries_crc32c) return damaged;
  std::vector<FooterEntry> entries;
  while (!left.empty()) {
    if (left.size() < sizeof(EntryBlock)) return damaged;
    const auto block = Load<EntryBlock>(left);
    left = left.subspan(sizeof(EntryBlock));
    if (block.label_bytes > std::min<size_t>(left.size(), kMaxLabelBytes) || !IsKind(block.kind) ||
        block.offset >= begin || block.offset % segment.alignment != 0 ||
        block.payload_bytes > segment.segment_bytes) {
      return damaged;
    }
    const RecordExtent extent = ExtentOf(block.label_bytes, block.payload_bytes, segment.alignment);
    if (extent.total_bytes > begin - block.offset) return damaged;
    entries.push_back({block.offset, static_cast<RecordKind>(block.kind), block.sequence,
                       block.payload_crc32c, block.payload_bytes,
                       std::string(View(left.first(block.label_bytes)))});
    left = left.subspan(block.label_bytes);
  }
  if (entries.size() != footer.entries) return damaged;
  return entries;
}

}  // namespace varve::tier
