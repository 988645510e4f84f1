// Segment files: header, records, footer. An input is a structure with what follows it, without
// padding; checksums and lengths are made right again unless the input says no, so that the fields
// behind them are reached. What parses stays within the segment, and is the same when it is encoded
// and parsed again.
#include "kvstore/tier/segment_format.h"

#include <algorithm>
#include <cstring>

#include "kvstore/page/checksum.h"
#include "tests/fuzz/fuzz.h"

namespace varve::fuzz {
namespace {

using namespace varve::tier;

// Where the structures have what must be right. The seeds tell when it moves.
constexpr size_t kSegmentSize = 56, kSegmentChecksum = 12;
constexpr size_t kRecordSize = 64, kRecordChecksum = 8, kRecordLabelBytes = 40;
constexpr size_t kFooterSize = 56, kFooterChecksum = 12, kFooterEntryBytes = 32, kFooterOffset = 40,
                 kFooterEntriesChecksum = 48;

constexpr uint64_t kRecordOffset = 65536;
enum Flag : uint8_t { kRawChecksums = 1, kRawLengths = 2, kLargeSegment = 4 };

struct Input {
  uint8_t flags = 0;
  std::string bytes;

  bool has(Flag flag) const { return (flags & flag) != 0; }
  SegmentHeader Segment() const {
    return {.number = 7,
            .segment_bytes = has(kLargeSegment) ? kMaxSegmentBytes : kMinSegmentBytes,
            .alignment = has(kLargeSegment) ? 4096 : kMinSegmentAlignment};
  }
};

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

template <typename T>
void Put(std::string& bytes, size_t at, T value) {
  std::memcpy(&bytes[at], &value, sizeof(value));
}

// The checksum at `at` of these bytes, with its own field as zero.
void Seal(std::string& bytes, size_t at, size_t size) {
  Put(bytes, at, uint32_t{0});
  Put(bytes, at, page::Crc32c(bytes.data(), size));
}

// ---- the bytes of a segment that an input stands for

std::string HeaderBytes(Input input) {
  if (!input.has(kRawChecksums) && input.bytes.size() >= kSegmentSize) {
    Seal(input.bytes, kSegmentChecksum, kSegmentSize);
  }
  return input.bytes;
}

std::string RecordBytes(Input input) {
  std::string& bytes = input.bytes;
  if (bytes.size() < kRecordSize) return bytes;
  const auto label = static_cast<uint32_t>(bytes.size() - kRecordSize);
  if (!input.has(kRawLengths)) Put(bytes, kRecordLabelBytes, label);
  if (!input.has(kRawChecksums)) Seal(bytes, kRecordChecksum, bytes.size());
  return bytes;
}

// The input begins with the closing block; in a segment it is at the end.
std::string FooterOf(Input input) {
  if (input.bytes.size() < kFooterSize) return input.bytes;
  const SegmentHeader segment = input.Segment();
  std::string closing = input.bytes.substr(0, kFooterSize),
              entries = input.bytes.substr(kFooterSize);
  const size_t entry_bytes = entries.size();
  const uint32_t entries_checksum = page::Crc32c(entries.data(), entries.size());
  entries.resize(FooterBytes(0, entry_bytes, segment.alignment) - segment.alignment);
  if (!input.has(kRawLengths)) {
    Put(closing, kFooterEntryBytes, uint64_t{entry_bytes});
    Put(closing, kFooterOffset,
        uint64_t{segment.segment_bytes - segment.alignment - entries.size()});
  }
  if (!input.has(kRawChecksums)) {
    Put(closing, kFooterEntriesChecksum, entries_checksum);
    Seal(closing, kFooterChecksum, kFooterSize);
  }
  closing.resize(segment.alignment);
  return entries + closing;
}

// ---- what must hold

bool Same(const FooterEntry& a, const FooterEntry& b) {
  return a.offset == b.offset && a.kind == b.kind && a.sequence == b.sequence &&
         a.payload_crc32c == b.payload_crc32c && a.payload_bytes == b.payload_bytes &&
         a.label == b.label;
}

void RunHeader(const Input& input) {
  const auto header = ParseSegmentHeader(Bytes(HeaderBytes(input)));
  if (!header.ok()) return;
  const auto encoded = EncodeSegmentHeader(*header);
  Require(encoded.ok() && encoded->size() == header->alignment, "a header that does not encode");
  const auto again = ParseSegmentHeader(Bytes(*encoded));
  Require(again.ok() && again->number == header->number &&
              again->segment_bytes == header->segment_bytes &&
              again->alignment == header->alignment && again->store_id == header->store_id,
          "a header that encodes to another one");
}

void RunRecord(const Input& input) {
  const SegmentHeader segment = input.Segment();
  const std::string bytes = RecordBytes(input);
  const auto record = ParseRecordHeader(Bytes(bytes), kRecordOffset, segment);
  if (!record.ok()) return;
  const RecordExtent extent = ExtentOf(static_cast<uint32_t>(record->label.size()),
                                       record->payload_bytes, segment.alignment);
  Require(extent.total_bytes <= segment.segment_bytes - kRecordOffset &&
              record->payload_bytes <= extent.total_bytes - extent.payload_offset,
          "a record beyond the segment");
  Require(record->label.data() >= bytes.data() &&
              record->label.data() + record->label.size() <= bytes.data() + bytes.size(),
          "a label that is not in the record");
  const std::string encoded = EncodeRecordHeader(*record, kRecordOffset, segment);
  const auto again = ParseRecordHeader(Bytes(encoded), kRecordOffset, segment);
  Require(again.ok() && again->kind == record->kind && again->sequence == record->sequence &&
              again->payload_crc32c == record->payload_crc32c &&
              again->payload_bytes == record->payload_bytes && again->label == record->label,
          "a record that encodes to another one");
}

void RunFooter(const Input& input) {
  const SegmentHeader segment = input.Segment();
  const std::string bytes = FooterOf(input);
  const size_t last = std::min<size_t>(bytes.size(), segment.alignment);
  const auto found = FindFooter(Bytes(bytes).last(last), segment);
  if (found.ok() && found->has_value()) {
    Require(**found < segment.segment_bytes && **found % segment.alignment == 0,
            "a footer outside the segment");
  }
  const auto entries = ParseFooter(Bytes(bytes), segment);
  if (!entries.ok()) return;
  const uint64_t begin = segment.segment_bytes - bytes.size();
  for (const FooterEntry& entry : *entries) {
    const RecordExtent extent =
        ExtentOf(static_cast<uint32_t>(entry.label.size()), entry.payload_bytes, segment.alignment);
    Require(entry.offset <= begin && entry.payload_bytes <= segment.segment_bytes &&
                extent.total_bytes <= begin - entry.offset,
            "an entry of a record beyond the records");
    Require(entry.offset % segment.alignment == 0, "an entry of a record between blocks");
  }
  const auto again = ParseFooter(Bytes(EncodeFooter(*entries, segment)), segment);
  Require(again.ok() &&
              std::equal(entries->begin(), entries->end(), again->begin(), again->end(), &Same),
          "a footer that encodes to another one");
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds;
  for (const uint8_t flags : {uint8_t{0}, uint8_t{kLargeSegment}}) {
    Input input{.flags = flags};
    const SegmentHeader segment = input.Segment();
    const auto add = [&](char kind) {
      seeds.push_back(std::string{kind, static_cast<char>(flags)} + input.bytes);
    };
    const std::string header = *EncodeSegmentHeader(segment);
    input.bytes = header.substr(0, kSegmentSize);
    Require(HeaderBytes(input) == input.bytes, "the header's checksum is elsewhere now");
    add('S');

    const std::string label = "a label of a record";
    for (const RecordKind kind : {RecordKind::kValue, RecordKind::kTombstone}) {
      const uint64_t payload = kind == RecordKind::kValue ? 5000 : 0;
      input.bytes =
          EncodeRecordHeader({kind, 99, 0x12345678, payload, label}, kRecordOffset, segment)
              .substr(0, kRecordSize + label.size());
      Require(RecordBytes(input) == input.bytes, "the record's fields are elsewhere now");
      add('R');
    }

    std::vector<FooterEntry> entries;
    size_t entry_bytes = 0;
    for (uint64_t count = 0; count < 4; ++count) {
      const std::string footer = EncodeFooter(entries, segment);
      input.bytes = footer.substr(footer.size() - segment.alignment, kFooterSize) +
                    footer.substr(0, entry_bytes);
      Require(FooterOf(input) == footer, "the footer's fields are elsewhere now");
      add('F');
      const auto kind = count == 1 ? RecordKind::kTombstone : RecordKind::kValue;
      entries.push_back({(count + 1) * kRecordOffset, kind, count + 1, 7, count * 1000,
                         label.substr(0, count * 5)});
      entry_bytes += 40 + entries.back().label.size();
    }
  }
  return seeds;
}

}  // namespace varve::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace varve::fuzz;
  if (size < 2) return 0;
  const Input input{data[1], std::string(reinterpret_cast<const char*>(data) + 2, size - 2)};
  if (data[0] == 'S') {
    RunHeader(input);
  } else if (data[0] == 'R') {
    RunRecord(input);
  } else {
    RunFooter(input);
  }
  return 0;
}
