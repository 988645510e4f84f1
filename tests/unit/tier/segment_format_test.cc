#include "kvstore/tier/segment_format.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvstore/page/checksum.h"

namespace varve::tier {
namespace {

using ::testing::HasSubstr;

std::span<const std::byte> Bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

SegmentHeader Segment(uint32_t alignment = 512) {
  SegmentHeader segment{.number = 7, .segment_bytes = 1 << 20, .alignment = alignment};
  for (int i = 0; i < 16; ++i) segment.store_id[i] = static_cast<uint8_t>(i);
  return segment;
}

RecordHeader Record(std::string_view label, uint64_t payload_bytes) {
  return {RecordKind::kValue, 99, 0x12345678, payload_bytes, label};
}

TEST(SegmentFormat, HeadersComeBackAsTheyWent) {
  for (const uint32_t alignment : {512u, 4096u, 65536u}) {
    const auto block = EncodeSegmentHeader(Segment(alignment));
    ASSERT_TRUE(block.ok()) << block.status();
    EXPECT_EQ(block->size(), alignment);
    const auto header = ParseSegmentHeader(Bytes(*block));
    ASSERT_TRUE(header.ok()) << header.status();
    EXPECT_EQ(header->number, 7u);
    EXPECT_EQ(header->segment_bytes, 1u << 20);
    EXPECT_EQ(header->alignment, alignment);
    EXPECT_EQ(header->store_id, Segment().store_id);
  }
}

TEST(SegmentFormat, HeadersOutOfRangeAreRefused) {
  const auto code = [](SegmentHeader header) {
    return EncodeSegmentHeader(header).status().code();
  };
  for (const uint32_t alignment : {0u, 256u, 513u, 131072u}) {
    EXPECT_EQ(code(Segment(alignment)), absl::StatusCode::kInvalidArgument) << alignment;
  }
  SegmentHeader segment = Segment();
  for (const uint64_t bytes :
       {uint64_t{0}, uint64_t{1} << 19, (uint64_t{1} << 20) + 1, uint64_t{1} << 41}) {
    segment.segment_bytes = bytes;
    EXPECT_EQ(code(segment), absl::StatusCode::kInvalidArgument) << bytes;
  }
}

// Of a header, and of a closing block.
TEST(SegmentFormat, AnotherVersionIsNamed) {
  const auto expect_named = [](std::string block, const auto& parse) {
    block[8] = 2;
    EXPECT_EQ(parse(block).code(), absl::StatusCode::kDataLoss)
        << "the checksum is of version 1: a changed bit";
    // What both begin with in any version: the checksum is of 56 bytes, itself as 0.
    std::memset(block.data() + 12, 0, 4);
    const uint32_t crc = page::Crc32c(block.data(), 56);
    std::memcpy(block.data() + 12, &crc, 4);
    const absl::Status status = parse(block);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("version 2; this program reads version 1"));
  };
  expect_named(*EncodeSegmentHeader(Segment()),
               [](const std::string& block) { return ParseSegmentHeader(Bytes(block)).status(); });
  const std::string footer = EncodeFooter({}, Segment());
  expect_named(footer.substr(footer.size() - Segment().alignment), [](const std::string& block) {
    return FindFooter(Bytes(block), Segment()).status();
  });
}

TEST(SegmentFormat, RecordsComeBackAsTheyWent) {
  for (const uint32_t alignment : {512u, 4096u}) {
    for (const size_t label :
         {size_t{0}, size_t{1}, size_t{447}, size_t{448}, size_t{449}, size_t{5000}}) {
      const std::string text(label, 'k');
      const std::string bytes = EncodeRecordHeader(Record(text, 4097), 8192, Segment(alignment));
      const RecordExtent extent = ExtentOf(static_cast<uint32_t>(label), 4097, alignment);
      EXPECT_EQ(bytes.size(), extent.payload_offset);
      EXPECT_EQ(extent.payload_offset % alignment, 0u);
      EXPECT_EQ(extent.total_bytes % alignment, 0u);
      EXPECT_GE(extent.total_bytes, extent.payload_offset + 4097);
      const auto record = ParseRecordHeader(Bytes(bytes), 8192, Segment(alignment));
      ASSERT_TRUE(record.ok()) << record.status();
      EXPECT_EQ(record->kind, RecordKind::kValue);
      EXPECT_EQ(record->sequence, 99u);
      EXPECT_EQ(record->payload_crc32c, 0x12345678u);
      EXPECT_EQ(record->payload_bytes, 4097u);
      EXPECT_EQ(record->label, text);
    }
  }
}

// What another life of the file left, at this place or another, is no record of this one.
TEST(SegmentFormat, RecordsOfOthersAreNone) {
  const std::string bytes = EncodeRecordHeader(Record("label", 100), 8192, Segment());
  SegmentHeader other = Segment();
  other.number = 8;
  EXPECT_EQ(ParseRecordHeader(Bytes(bytes), 8192, other).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(ParseRecordHeader(Bytes(bytes), 512, Segment()).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(ParseRecordHeader(Bytes(std::string(512, '\0')), 512, Segment()).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(SegmentFormat, RecordsThatDoNotFitAreCutOff) {
  const std::string bytes = EncodeRecordHeader(Record(std::string(600, 'x'), 100), 8192, Segment());
  for (const size_t length : {size_t{0}, size_t{63}, size_t{64}, size_t{663}}) {
    EXPECT_EQ(ParseRecordHeader(Bytes(bytes).first(length), 8192, Segment()).status().code(),
              absl::StatusCode::kOutOfRange);
  }
  const uint64_t late = (1 << 20) - 512;
  const std::string beyond = EncodeRecordHeader(Record("x", 1), late, Segment());
  EXPECT_EQ(ParseRecordHeader(Bytes(beyond), late, Segment()).status().code(),
            absl::StatusCode::kOutOfRange);
}

TEST(SegmentFormat, TombstonesComeBackAsTheyWent) {
  const std::vector<Tombstone> tombstones = {{1, 2}, {~uint64_t{0}, 3}, {5, ~uint64_t{0}}};
  const std::string payload = EncodeTombstones(tombstones);
  const auto parsed = ParseTombstones(Bytes(payload));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->size(), tombstones.size());
  for (size_t i = 0; i < tombstones.size(); ++i) {
    EXPECT_EQ((*parsed)[i].id, tombstones[i].id);
    EXPECT_EQ((*parsed)[i].segment, tombstones[i].segment);
  }
  EXPECT_TRUE(ParseTombstones({})->empty());
  EXPECT_EQ(ParseTombstones(Bytes(payload).first(20)).status().code(), absl::StatusCode::kDataLoss);
}

std::vector<FooterEntry> Entries(uint64_t seed, size_t count) {
  std::mt19937_64 random(seed);
  std::vector<FooterEntry> entries(count);
  for (size_t i = 0; i < count; ++i) {
    entries[i] = {512 * (i + 1),     i % 5 == 0 ? RecordKind::kTombstone : RecordKind::kValue,
                  random(),          static_cast<uint32_t>(random()),
                  random() % 100000, std::string(random() % 50, static_cast<char>('a' + i % 26))};
  }
  return entries;
}

void ExpectEqual(const std::vector<FooterEntry>& a, const std::vector<FooterEntry>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].offset, b[i].offset);
    EXPECT_EQ(a[i].kind, b[i].kind);
    EXPECT_EQ(a[i].sequence, b[i].sequence);
    EXPECT_EQ(a[i].payload_crc32c, b[i].payload_crc32c);
    EXPECT_EQ(a[i].payload_bytes, b[i].payload_bytes);
    EXPECT_EQ(a[i].label, b[i].label);
  }
}

TEST(SegmentFormat, FootersComeBackAsTheyWent) {
  for (const size_t count : {0, 1, 100, 1000}) {
    const std::vector<FooterEntry> entries = Entries(count, count);
    uint64_t labels = 0;
    for (const FooterEntry& entry : entries) labels += entry.label.size();
    const std::string footer = EncodeFooter(entries, Segment());
    EXPECT_EQ(footer.size(), FooterBytes(count, labels, 512));
    const auto found = FindFooter(Bytes(footer).last(512), Segment());
    ASSERT_TRUE(found.ok()) << found.status();
    ASSERT_EQ(*found, (1u << 20) - footer.size());
    const auto parsed = ParseFooter(Bytes(footer), Segment());
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    ExpectEqual(*parsed, entries);
  }
}

TEST(SegmentFormat, AFooterListsNothingBeyondItsRecords) {
  const auto parses = [](FooterEntry entry) {
    return ParseFooter(Bytes(EncodeFooter({&entry, 1}, Segment())), Segment()).ok();
  };
  const uint64_t end = (1 << 20) - 1024;  // where this footer begins
  EXPECT_TRUE(parses({512, RecordKind::kValue, 1, 0, end - 1024, ""}));
  EXPECT_FALSE(parses({512, RecordKind::kValue, 1, 0, end - 1023, ""}));
  EXPECT_FALSE(parses({512, RecordKind::kValue, 1, 0, UINT64_MAX, ""}));
  EXPECT_TRUE(parses({end - 512, RecordKind::kTombstone, 1, 0, 0, "label"}));
  EXPECT_FALSE(parses({end - 512, RecordKind::kTombstone, 1, 0, 0, std::string(449, 'l')}));
  EXPECT_FALSE(parses({end, RecordKind::kTombstone, 1, 0, 0, "label"}));
  EXPECT_FALSE(parses({513, RecordKind::kValue, 1, 0, 1, ""}));
}

TEST(SegmentFormat, ASegmentWithoutAFooterIsToldFromADamagedOne) {
  EXPECT_EQ(*FindFooter(Bytes(std::string(512, '\0')), Segment()), std::nullopt);
  const std::string footer = EncodeFooter(Entries(1, 10), Segment());
  SegmentHeader other = Segment();
  other.number = 8;
  EXPECT_EQ(*FindFooter(Bytes(footer).last(512), other), std::nullopt);
}

// Every single flipped bit is noticed, whatever it hits.
TEST(SegmentFormat, AFlippedBitIsNoticed) {
  const std::string header = *EncodeSegmentHeader(Segment());
  for (size_t bit = 0; bit < 56 * 8; ++bit) {
    std::string flipped = header;
    flipped[bit / 8] ^= static_cast<char>(1 << bit % 8);
    EXPECT_FALSE(ParseSegmentHeader(Bytes(flipped)).ok()) << bit;
  }
  const std::string record = EncodeRecordHeader(Record("a label", 100), 512, Segment());
  for (size_t bit = 0; bit < (64 + 7) * 8; ++bit) {
    std::string flipped = record;
    flipped[bit / 8] ^= static_cast<char>(1 << bit % 8);
    EXPECT_FALSE(ParseRecordHeader(Bytes(flipped), 512, Segment()).ok()) << bit;
  }
  const std::vector<FooterEntry> entries = Entries(3, 20);
  const std::string footer = EncodeFooter(entries, Segment());
  for (size_t bit = 0; bit < footer.size() * 8; ++bit) {
    std::string flipped = footer;
    flipped[bit / 8] ^= static_cast<char>(1 << bit % 8);
    const auto parsed = ParseFooter(Bytes(flipped), Segment());
    if (parsed.ok()) ExpectEqual(*parsed, entries);  // padding
  }
}

// The bytes of version 1, so that a change of the format does not pass unnoticed.
TEST(SegmentFormat, GoldenBytes) {
  const auto crc = [](const std::string& bytes) {
    return page::Crc32c(bytes.data(), bytes.size());
  };
  EXPECT_EQ(crc(*EncodeSegmentHeader(Segment())), 2045661627u);
  EXPECT_EQ(crc(EncodeRecordHeader(Record("a label", 100), 512, Segment())), 3581912771u);
  const std::vector<FooterEntry> entries = {{512, RecordKind::kValue, 5, 6, 7, "label"}};
  EXPECT_EQ(crc(EncodeFooter(entries, Segment())), 3069698660u);
}

}  // namespace
}  // namespace varve::tier
