// The bytes of notes: what is written parses, what is damaged does not.
#include "kvstore/recall/context_note.h"

#include <cstring>
#include <string>

#include "gtest/gtest.h"

namespace varve::recall {
namespace {

ContextNote Sample() {
  ContextNote note;
  note.namespace_name = "tenant/model";
  note.id = "chat-17";
  note.options.geometry = {32, 8, 32, 128, 32, page::DType::kBF16};
  note.options.digest_kind = page::DigestKind::kBoxMean;
  note.inherited = {{7, 9, 100}, {12, 40, 2000}};
  return note;
}

ContextNote SampleWithRope() {
  ContextNote note = Sample();
  note.options.geometry.rope = {.theta = 500000,
                                .rotary_dim = 128,
                                .pairing = page::RopePairing::kInterleaved,
                                .scaling = page::RopeScaling::kLlama3,
                                .factor = 8,
                                .low_freq_factor = 1,
                                .high_freq_factor = 4,
                                .original_max_position = 8192,
                                .arithmetic = {.angles = page::RopeAngles::kF32,
                                               .table = page::DType::kBF16,
                                               .rotation = page::RopeRotation::kKeyDType}};
  return note;
}

std::string HashRow(const std::string& hash) {
  std::string row(1, static_cast<char>(hash.size()));
  row += hash;
  row.resize(kBlockRowBytes);
  return row;
}

TEST(ContextNote, WhatIsWrittenParses) {
  for (const ContextNote& note : {Sample(), SampleWithRope()}) {
    const auto parsed = ParseNote(EncodeLabel(note), EncodePayload(note.inherited));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto& found = std::get<ContextNote>(*parsed);
    EXPECT_EQ(found.namespace_name, note.namespace_name);
    EXPECT_EQ(found.id, note.id);
    EXPECT_EQ(found.options.geometry, note.options.geometry);
    EXPECT_EQ(found.options.digest_kind, note.options.digest_kind);
    EXPECT_EQ(found.inherited, note.inherited);
  }

  const RowsNote rows{5, {{3, 10, 2, 128}, {RowsSection::kBlocks, 7, 2, kBlockRowBytes}}};
  const std::string payload = EncodePayload(rows.sections) + std::string(256, 'x') +
                              HashRow("abcd") + HashRow("0123456789");
  const auto found_rows = ParseNote(EncodeLabel(rows), payload);
  ASSERT_TRUE(found_rows.ok()) << found_rows.status();
  EXPECT_EQ(std::get<RowsNote>(*found_rows), rows);
  EXPECT_EQ(RowsOf(rows, payload),
            (std::vector<std::string_view>{std::string_view(payload).substr(32, 256),
                                           std::string_view(payload).substr(288)}));

  const auto epochs = ParseNote(EncodeLabel(EpochsNote{77}), "");
  ASSERT_TRUE(epochs.ok()) << epochs.status();
  EXPECT_EQ(std::get<EpochsNote>(*epochs).end, 77u);
}

// What the payload says is left out.
TEST(ContextNote, WithoutItsPayload) {
  const ContextNote note = Sample();
  const auto context = ParseNote(EncodeLabel(note), std::nullopt);
  ASSERT_TRUE(context.ok()) << context.status();
  EXPECT_EQ(std::get<ContextNote>(*context).id, note.id);
  EXPECT_TRUE(std::get<ContextNote>(*context).inherited.empty());
  const auto rows = ParseNote(EncodeLabel(RowsNote{5, {{3, 10, 2, 128}}}), std::nullopt);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(std::get<RowsNote>(*rows), RowsNote{5});
}

// The layout is fixed: these bytes are on disks.
TEST(ContextNote, TheBytesOfVersion2) {
  const RowsNote rows{0x0102030405060708, {{3, 10, 2, 128}}};
  EXPECT_EQ(EncodeLabel(rows), std::string("VCTX\2\0\2\0\x08\7\6\5\4\3\2\1\1\0\0\0\0\0\0\0", 24));
  EXPECT_EQ(EncodePayload(rows.sections), std::string("\3\0\0\0\x0a\0\0\0\2\0\0\0\x80\0\0\0", 16));
  EXPECT_EQ(EncodeLabel(EpochsNote{77}), std::string("VCTX\2\0\3\0M\0\0\0\0\0\0\0", 16));
  const std::string context = EncodeLabel(Sample());
  const std::string head("VCTX\2\0\1\0 \0\0\0\x08\0\0\0 \0\0\0\x80\0\0\0 \0\0\0", 28);
  EXPECT_EQ(context.substr(0, head.size()), head);
  EXPECT_EQ(context.substr(40), "tenant/modelchat-17");
}

// As version 2, and the RoPE parameters before the names. A program of version 2 refuses to start
// with it, as it would lose them.
TEST(ContextNote, TheBytesOfVersion3) {
  const std::string label = EncodeLabel(SampleWithRope());
  const std::string before = EncodeLabel(Sample());
  EXPECT_EQ(label.substr(0, 8), std::string("VCTX\3\0\1\0", 8));
  EXPECT_EQ(label.substr(8, 32), before.substr(8, 32));
  EXPECT_EQ(label.substr(40, 32), std::string("\0\0\0\0\x80\x84\x1e\x41\0\0\0\0\0\0\x20\x40"
                                              "\0\0\0\0\0\0\xf0\x3f\0\0\0\0\0\0\x10\x40",
                                              32));
  EXPECT_EQ(label.substr(72, 24),
            std::string("\x80\0\0\0\0\x20\0\0\2\0\4\0\1\0\3\0\2\0\0\0\0\0\0\0", 24));
  EXPECT_EQ(label.substr(96), "tenant/modelchat-17");
}

TEST(ContextNote, OfOthersAndOfOtherVersions) {
  EXPECT_EQ(ParseNote("", "").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ParseNote("some other room's", "").status().code(), absl::StatusCode::kNotFound);
  std::string label = EncodeLabel(EpochsNote{77});
  for (const char version : {1, 3}) {
    label[4] = version;
    EXPECT_EQ(ParseNote(label, "").status().code(), absl::StatusCode::kFailedPrecondition);
  }
  label = EncodeLabel(Sample());
  label[4] = 4;
  EXPECT_EQ(ParseNote(label, "").status().message(),
            "notes of contexts of version 4; this program reads 2, and 3 where it has RoPE "
            "parameters");
}

void ExpectDamaged(const std::string& label, const std::string& payload) {
  EXPECT_EQ(ParseNote(label, payload).status().code(), absl::StatusCode::kDataLoss);
}

TEST(ContextNote, WhatIsOutOfRangeIsDamaged) {
  const auto damaged = [](store::NoteId under, const std::vector<RowsSection>& sections,
                          const std::string& rows) {
    ExpectDamaged(EncodeLabel(RowsNote{under, sections}), EncodePayload(sections) + rows);
  };
  for (const RowsSection& section : {RowsSection{1024, 0, 1, 1},
                                     {0, 0, 0, 1},
                                     {0, kMaxBlocks, 1, 1},
                                     {0, 0, kMaxBlocks + 1, 1},
                                     {0, UINT32_MAX, 2, 1},
                                     {0, 0, 1, 0},
                                     {RowsSection::kBlocks, 0, 1, 32}}) {
    damaged(1, {section}, std::string(section.bytes(), 'x'));
  }
  damaged(0, {{0, 0, 1, 1}}, "x");
  damaged(1, {}, "");
  damaged(1, {{0, 0, 3, 10}}, "");
  damaged(1, {{0, 0, 3, 10}}, std::string(29, 'x'));
  damaged(1, {{0, 0, 3, 10}}, std::string(31, 'x'));
  damaged(1, {{0, 0, 1, 1}, {0, 1, 1, 1}}, "xx");
  damaged(1, {{1, 0, 1, 1}, {0, 0, 1, 1}}, "xx");
  ExpectDamaged(EncodeLabel(RowsNote{1, {{0, 0, 1, 1}}}), "short");
  const RowsSection block{RowsSection::kBlocks, 0, 1, kBlockRowBytes};
  damaged(1, {block}, HashRow("abcd") + HashRow("efgh"));
  damaged(1, {block}, HashRow("abc"));
  damaged(1, {block}, HashRow(std::string(60, 'x')));
  damaged(1, {block}, HashRow("abcd").replace(63, 1, "x"));
  ExpectDamaged(EncodeLabel(EpochsNote{0}), "");

  ContextNote note = Sample();
  for (const std::vector<Inherited>& wrong : {std::vector<Inherited>{{0, 1, 1}},
                                              {{5, 4, 1}},
                                              {{5, 5, 0}},
                                              {{5, 5, kMaxBlocks + 1}},
                                              {{5, 5, 1}, {5, 6, 1}},
                                              {{5, 5, 1}, {4, 6, 1}}}) {
    ExpectDamaged(EncodeLabel(note), EncodePayload(wrong));
  }
  ExpectDamaged(EncodeLabel(note), "x");
  note.id = "not an id";
  ExpectDamaged(EncodeLabel(note), "");
  note = Sample();
  note.options.geometry.head_dim = 31;
  ExpectDamaged(EncodeLabel(note), "");
  note = Sample();
  note.options.digest_kind = static_cast<page::DigestKind>(99);
  ExpectDamaged(EncodeLabel(note), "");
  note = SampleWithRope();
  note.options.geometry.rope->rotary_dim = 130;
  ExpectDamaged(EncodeLabel(note), "");
  const std::string label = EncodeLabel(SampleWithRope());
  ExpectDamaged(std::string(label).replace(87, 1, "\1"), "");  // a table dtype of 256 + 3
  ExpectDamaged(std::string(label).replace(95, 1, "\1"), "");  // no zero
}

// A flipped bit is found, or gives another note that is in range: never a crash, never the same
// note. A cut label is never one.
TEST(ContextNote, EveryFlippedBitAndEveryCut) {
  const ContextNote context = Sample();
  const RowsSection block{RowsSection::kBlocks, 10, 1, kBlockRowBytes};
  const std::pair<std::string, std::string> notes[] = {
      {EncodeLabel(context), EncodePayload(context.inherited)},
      {EncodeLabel(SampleWithRope()), EncodePayload(context.inherited)},
      {EncodeLabel(RowsNote{5, {block}}), EncodePayload({block}) + HashRow("abcd")},
      {EncodeLabel(RowsNote{5, {{3, 10, 2, 128}}}),
       EncodePayload({{3, 10, 2, 128}}) + std::string(256, 'x')},
      {EncodeLabel(EpochsNote{77}), ""}};
  for (const auto& [label, payload] : notes) {
    for (size_t bit = 0; bit < 8 * label.size(); ++bit) {
      std::string flipped = label;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
      const auto parsed = ParseNote(flipped, payload);
      if (!parsed.ok()) continue;
      std::string again;
      if (const auto* note = std::get_if<ContextNote>(&*parsed)) again = EncodeLabel(*note);
      if (const auto* note = std::get_if<RowsNote>(&*parsed)) again = EncodeLabel(*note);
      if (const auto* note = std::get_if<EpochsNote>(&*parsed)) again = EncodeLabel(*note);
      EXPECT_EQ(again, flipped) << "bit " << bit;
    }
    for (size_t size = 0; size < label.size(); ++size) {
      EXPECT_FALSE(ParseNote(label.substr(0, size), payload).ok()) << size;
    }
  }
}

}  // namespace
}  // namespace varve::recall
