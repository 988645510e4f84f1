// Contexts over restarts, case by case: what is there again, what is erased, what a hole cuts.
#include <functional>
#include <iostream>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kvstore/recall/context_note.h"
#include "tests/unit/recall/recovery_fixture.h"

namespace varve::recall {
namespace {

std::vector<LayerSelection> Selected(ContextTable& table, store::NamespaceId ns,
                                     const std::string& id) {
  const page::Geometry g = SmallGeometry();
  const std::vector<float> queries = RandomQueries(g, 9);
  std::vector<LayerQuery> layers;
  for (uint32_t l = 0; l < g.num_layers; ++l) {
    layers.push_back({l, queries, std::vector<HeadQuery>(g.num_kv_heads, HeadQuery{5, {}})});
  }
  SelectParams params;
  params.epoch = table.Get(ns, id)->epoch;
  params.explain = true;
  auto selected = table.Select(ns, id, params, layers, nullptr);
  EXPECT_TRUE(selected.ok()) << selected.status();
  return selected.ok() ? *std::move(selected) : std::vector<LayerSelection>{};
}

TEST_F(ContextRecovery, EverythingAcknowledgedIsThereAgain) {
  BuildInThree("a");
  const store::NamespaceId other = *store_->InternNamespace("other");
  ASSERT_TRUE(table_->Open(other, "a", {SmallGeometry(), page::DigestKind::kMean}, 5).ok());
  ASSERT_TRUE(table_->Append(other, "a", 0, {{"abcd", std::string(59, 'y')}}).ok());
  const auto before = Selected(*table_, ns_, "a");
  const uint32_t epoch = table_->Get(ns_, "a")->epoch;
  const uint64_t digest_bytes = table_->digest_bytes();
  table_->WriteNotes();
  const size_t notes = journal_.notes().size();
  for (int restart = 0; restart < 3; ++restart) {
    Restart();
    EXPECT_EQ(journal_.notes().size(), notes);
    EXPECT_EQ(table_->size(), 2u);
    EXPECT_EQ(table_->digest_bytes(), digest_bytes);
    EXPECT_EQ(table_->Get(ns_, "a")->attached_sessions, 0u);
    const auto after = Selected(*table_, ns_, "a");
    ASSERT_EQ(after.size(), before.size());
    for (size_t l = 0; l < after.size(); ++l) {
      for (size_t h = 0; h < after[l].heads.size(); ++h) {
        EXPECT_EQ(after[l].heads[h].selected, before[l].heads[h].selected);
        EXPECT_EQ(after[l].heads[h].scores, before[l].heads[h].scores);
      }
      EXPECT_EQ(after[l].block_hashes, before[l].block_hashes);
    }
    // A worker that slept over the restart.
    EXPECT_TRUE(absl::IsFailedPrecondition(AddDigests("a", epoch, 0, 0, 1).status()));
    ExpectBuilt("a", 12);
    const auto theirs = table_->Attach(*store_->InternNamespace("other"), "a", 5);
    ASSERT_TRUE(theirs.ok()) << theirs.status();
    EXPECT_EQ(theirs->block_hashes, (std::vector<std::string>{"abcd", std::string(59, 'y')}));
    EXPECT_EQ(theirs->options.digest_kind, page::DigestKind::kMean);
    EXPECT_EQ(theirs->options.geometry, SmallGeometry());
  }
}

// Also in what a fork and a truncate write anew.
TEST_F(ContextRecovery, RopeParametersAreThereAgain) {
  ContextOptions options{SmallGeometry()};
  options.geometry.rope = {.theta = 10000,
                           .rotary_dim = 16,
                           .scaling = page::RopeScaling::kLinear,
                           .factor = 4,
                           .arithmetic = {.table = page::DType::kBF16}};
  Build("a", 6, options);
  Build("silent", 3);
  ASSERT_TRUE(table_->Fork(ns_, "a", "fork", 4, kSession).ok());
  ASSERT_TRUE(table_->Truncate(ns_, "a", 5).ok());
  table_->WriteNotes();
  for (int restart = 0; restart < 2; ++restart) {
    Restart();
    for (const auto& [id, blocks] : {std::pair("a", 5u), {"fork", 4u}}) {
      EXPECT_EQ(Attached(id).options.geometry, options.geometry) << id;
      EXPECT_EQ(Attached(id).num_blocks, blocks) << id;
    }
    EXPECT_EQ(Attached("silent").options.geometry, SmallGeometry());
  }
}

TEST_F(ContextRecovery, WhatIsAddedAfterARestartIsKeptToo) {
  Build("a", 10);
  for (uint32_t blocks = 10; blocks < 14; ++blocks) {
    Restart();
    const uint32_t epoch = table_->Get(ns_, "a")->epoch;
    ASSERT_TRUE(table_->Append(ns_, "a", blocks, Hashes(1, blocks, 1)).ok());
    // Rows that are there already are not written again.
    for (uint32_t l = 0; l < 2; ++l) ASSERT_TRUE(AddDigests("a", epoch, l, 5, blocks - 4).ok());
  }
  Restart();
  ExpectBuilt("a", 14);
  uint64_t bytes = 0;
  for (const auto& [id, note] : journal_.notes()) {
    const auto parsed = ParseNote(note.label, note.payload);
    const auto* rows = parsed.ok() ? std::get_if<RowsNote>(&*parsed) : nullptr;
    if (rows == nullptr) continue;
    for (const RowsSection& section : rows->sections) bytes += section.bytes();
  }
  EXPECT_EQ(bytes, 14 * kBlockRowBytes + table_->Get(ns_, "a")->digest_bytes);
}

// As a decoding sequence streams them: block by block, layer by layer. What a note takes on disk is
// its header and its payload, each in whole blocks of 4 KiB.
TEST_F(ContextRecovery, AStreamOfSingleBlocksTakesFewNotes) {
  constexpr uint32_t kBlocks = 2000, kStreamed = 8;
  page::Geometry shape = SmallGeometry();
  shape.num_layers = kStreamed;
  for (const uint32_t blocks_a_tick : {0u, 1u, 10u, kBlocks}) {  // 0: a note for each call
    const auto opened = table_->Open(ns_, "a", {shape}, kSession);
    ASSERT_TRUE(opened.ok()) << opened.status();
    for (uint32_t b = 0; b < kBlocks; ++b) {
      ASSERT_TRUE(table_->Append(ns_, "a", b, Hashes(1, b, 1)).ok());
      for (uint32_t l = 0; l < kStreamed; ++l) {
        if (blocks_a_tick == 0) table_->WriteNotes();
        ASSERT_TRUE(AddDigests("a", opened->epoch, l, b, 1, {shape}).ok());
      }
      if (blocks_a_tick == 0 || b % blocks_a_tick == 0) table_->WriteNotes();
    }
    ASSERT_TRUE(table_->Park(ns_, "a", kSession).ok());
    uint64_t bytes = 0;
    for (const auto& [id, note] : journal_.notes()) {
      bytes += 4096 + (note.payload.size() + 4095) / 4096 * 4096;
    }
    const size_t notes = journal_.notes().size() - 2;  // its own, and the epochs
    std::cout << blocks_a_tick << " blocks a tick: " << notes << " notes, " << bytes << " bytes\n";
    if (blocks_a_tick == 10) {
      EXPECT_LE(notes, kBlocks / 10 + 1);
    }
    if (blocks_a_tick == kBlocks) {
      EXPECT_LE(bytes, table_->digest_bytes() * 5 / 4);
    }
    ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  }
}

TEST_F(ContextRecovery, ADroppedContextLeavesNothing) {
  Build("a", 10);
  Build("b", 10);
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  Restart();
  EXPECT_EQ(table_->size(), 1u);
  ExpectBuilt("b", 10);
  ASSERT_TRUE(table_->Drop(ns_, "b").ok());
  EXPECT_EQ(journal_.notes().size(), 1u);  // the epochs
  Restart();
  EXPECT_EQ(table_->size(), 0u);
  EXPECT_EQ(journal_.notes().size(), 1u);
  // The same name again.
  Build("a", 3, {SmallGeometry()}, 7);
  Restart();
  ExpectBuilt("a", 3, 7);
}

TEST_F(ContextRecovery, ATruncateErasesWhatIsBeyondIt) {
  BuildInThree("a");
  const size_t notes = journal_.notes().size();
  ASSERT_TRUE(table_->Truncate(ns_, "a", 5).ok());
  EXPECT_EQ(journal_.notes().size(), notes - 3);  // of three lists
  Restart();
  ExpectBuilt("a", 5);
  // Other blocks in their place.
  const uint32_t epoch = table_->Get(ns_, "a")->epoch;
  ASSERT_TRUE(table_->Append(ns_, "a", 5, Hashes(2, 5, 6)).ok());
  for (uint32_t l = 0; l < 2; ++l) {
    ASSERT_TRUE(AddDigests("a", epoch, l, 5, 6, {SmallGeometry()}, 2).ok());
  }
  ASSERT_TRUE(table_->Truncate(ns_, "a", 8).ok());
  Restart();
  const ContextSnapshot snapshot = Attached("a");
  std::vector<std::string> expected = Hashes(1, 0, 5);
  for (const std::string& hash : Hashes(2, 5, 3)) expected.push_back(hash);
  EXPECT_EQ(snapshot.block_hashes, expected);
  const auto rows = ReadDigests("a", 1, 0, 8);
  ASSERT_TRUE(rows.ok()) << rows.status();
  const ContextOptions options{SmallGeometry()};
  EXPECT_TRUE(*rows == RandomDigests(options, 101, 0, 5) + RandomDigests(options, 102, 5, 3));
  ASSERT_TRUE(table_->Truncate(ns_, "a", 0).ok());
  EXPECT_EQ(journal_.notes().size(), 2u);
  Restart();
  ExpectBuilt("a", 0);
}

// What becomes of the parent never touches the fork, before a restart or after it.
TEST_F(ContextRecovery, AForkOutlivesItsParent) {
  const std::function<void()> ends[] = {
      [&] { ASSERT_TRUE(table_->Drop(ns_, "parent").ok()); },
      [&] { ASSERT_TRUE(table_->Truncate(ns_, "parent", 2).ok()); }};
  for (const bool restart_first : {false, true}) {
    for (const auto& end : ends) {
      BuildInThree("parent");
      ASSERT_TRUE(table_->Fork(ns_, "parent", "fork", 9, kSession).ok());
      ASSERT_TRUE(table_->Fork(ns_, "fork", "fork-of-fork", 0, kSession).ok());
      ASSERT_TRUE(table_->Truncate(ns_, "fork-of-fork", 6).ok());
      if (restart_first) Restart();
      end();
      Restart();
      ExpectBuilt("fork", 9);
      ExpectBuilt("fork-of-fork", 6);
      ASSERT_TRUE(table_->Drop(ns_, "fork").ok());
      Restart();
      ExpectBuilt("fork-of-fork", 6);
      table_->Drop(ns_, "parent").IgnoreError();
      ASSERT_TRUE(table_->Drop(ns_, "fork-of-fork").ok());
      EXPECT_EQ(journal_.notes().size(), 1u);
    }
  }
}

TEST_F(ContextRecovery, SharedRowsAreThereOnce) {
  Build("parent", 600);
  ASSERT_TRUE(table_->Fork(ns_, "parent", "whole", 0, kSession).ok());
  ASSERT_TRUE(table_->Fork(ns_, "parent", "half", 300, kSession).ok());
  const uint64_t digest_bytes = table_->digest_bytes();
  Restart();
  EXPECT_EQ(table_->digest_bytes(), digest_bytes);
  ASSERT_TRUE(table_->Drop(ns_, "parent").ok());
  Restart({.max_digest_bytes = digest_bytes});
  EXPECT_EQ(table_->digest_bytes(), digest_bytes);
  ExpectBuilt("whole", 600);
  ExpectBuilt("half", 300);
}

// The parent's digests of blocks that both have may come after the fork: they are not the fork's.
TEST_F(ContextRecovery, AForkHasNoDigestsThatItsParentGotLater) {
  const auto opened = table_->Open(ns_, "parent", {SmallGeometry()}, kSession);
  ASSERT_TRUE(table_->Append(ns_, "parent", 0, Hashes(1, 0, 8)).ok());
  ASSERT_TRUE(AddDigests("parent", opened->epoch, 0, 0, 3).ok());
  const auto fork = table_->Fork(ns_, "parent", "fork", 0, kSession);
  ASSERT_TRUE(AddDigests("parent", opened->epoch, 0, 3, 5).ok());
  ASSERT_TRUE(AddDigests("fork", fork->epoch, 0, 3, 1).ok());
  Restart();
  EXPECT_EQ(Attached("parent").digest_blocks, (std::vector<uint32_t>{8, 0}));
  EXPECT_EQ(Attached("fork").digest_blocks, (std::vector<uint32_t>{4, 0}));
}

TEST_F(ContextRecovery, AMissingNoteCutsItsListThere) {
  BuildInThree("a");
  journal_.Lose(Find(1, 4));
  Restart();
  ContextSnapshot snapshot = Attached("a");
  EXPECT_EQ(snapshot.num_blocks, 12u);
  EXPECT_EQ(snapshot.digest_blocks, (std::vector<uint32_t>{12, 4}));
  // What is sent again closes the hole.
  ASSERT_TRUE(AddDigests("a", snapshot.epoch, 1, 4, 8).ok());
  Restart();
  ExpectBuilt("a", 12);
  journal_.Lose(Find(RowsSection::kBlocks, 4));
  Restart();
  ExpectBuilt("a", 4);
}

// The notes behind a hole are gone for good, even when erasing them is what the crash loses.
TEST_F(ContextRecovery, WhatLayBehindAHoleDoesNotComeBack) {
  BuildInThree("a");
  const FakeJournal::Notes past = journal_.Past();
  const store::NoteId behind = Find(RowsSection::kBlocks, 7);
  journal_.Lose(Find(RowsSection::kBlocks, 4));
  Restart();
  ASSERT_TRUE(table_->Append(ns_, "a", 4, Hashes(3, 4, 3)).ok());
  ASSERT_FALSE(journal_.notes().contains(behind));
  journal_.BringBack(behind, past.at(behind));
  Restart();
  std::vector<std::string> expected = Hashes(1, 0, 4);
  for (const std::string& hash : Hashes(3, 4, 3)) expected.push_back(hash);
  EXPECT_EQ(Attached("a").block_hashes, expected);
}

TEST_F(ContextRecovery, WithoutItsOwnNoteAContextIsDropped) {
  Build("a", 5);
  ASSERT_TRUE(table_->Fork(ns_, "a", "fork", 0, kSession).ok());
  for (const auto& [id, note] : FakeJournal::Notes(journal_.notes())) {
    const auto parsed = ParseNote(note.label, note.payload);
    const auto* own = std::get_if<ContextNote>(&*parsed);
    if (own != nullptr && own->id == "a") journal_.Lose(id);
  }
  Restart();
  EXPECT_EQ(table_->size(), 1u);
  ExpectBuilt("fork", 5);
  ASSERT_TRUE(table_->Drop(ns_, "fork").ok());
  EXPECT_EQ(journal_.notes().size(), 1u);
}

TEST_F(ContextRecovery, AnEpochIsNeverGivenAgain) {
  uint32_t last = 0;
  for (int restart = 0; restart < 5; ++restart) {
    Restart();
    for (int i = 0; i < 30; ++i) {
      const std::string id = "c" + std::to_string(i);
      const auto opened = table_->Open(ns_, id, {SmallGeometry()}, kSession);
      ASSERT_TRUE(opened.ok()) << opened.status();
      ASSERT_GT(opened->epoch, last);
      last = opened->epoch;
    }
    journal_.LoseAfter(journal_.synced());  // the worst crash
  }
  EXPECT_EQ(table_->size(), 30u);
  // More than were noted at first.
  Restart();
  Build("long", 1);
  uint32_t epoch = table_->Get(ns_, "long")->epoch;
  for (int i = 0; i < 40000; ++i) {
    const uint32_t before = epoch;
    epoch = table_->Truncate(ns_, "long", 1)->epoch;
    ASSERT_GT(epoch, before);
  }
  ASSERT_TRUE(table_->Drop(ns_, "long").ok());
  EXPECT_EQ(journal_.notes().size(), 1u);
  Restart();
  EXPECT_GT(table_->Open(ns_, "long", {SmallGeometry()}, kSession)->epoch, epoch);
}

// A disk that takes no notes: contexts are served, and two such processes give no epoch twice.
TEST_F(ContextRecovery, EpochsThatCannotBeNotedAreTakenElsewhere) {
  Build("a", 5);
  uint32_t last = table_->Get(ns_, "a")->epoch;
  table_->WriteNotes();
  const size_t position = journal_.position();
  journal_.FailSyncs(absl::ResourceExhaustedError("full"));
  std::set<uint32_t> epochs;
  for (int restart = 0; restart < 2; ++restart) {
    Restart();
    ExpectBuilt("a", 5);
    const uint32_t epoch = table_->Get(ns_, "a")->epoch;
    EXPECT_GT(epoch, last);
    EXPECT_TRUE(epochs.insert(epoch).second);
    table_.reset();
    journal_.LoseAfter(position);
  }
}

// Rows of a dropped context whose erasure was lost take no room from those that are there.
TEST_F(ContextRecovery, WhatWasNotErasedTakesNoRoom) {
  Build("dropped", 100);
  const FakeJournal::Notes past = journal_.Past();
  ASSERT_TRUE(table_->Drop(ns_, "dropped").ok());
  Build("a", 100, {SmallGeometry()}, 2);
  const uint64_t digest_bytes = table_->digest_bytes();
  for (const auto& [id, note] : past) {
    const auto parsed = ParseNote(note.label, note.payload);
    if (std::get_if<RowsNote>(&*parsed) != nullptr) journal_.BringBack(id, note);
  }
  Restart({.max_digest_bytes = digest_bytes});
  ExpectBuilt("a", 100, 2);
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  EXPECT_EQ(journal_.notes().size(), 1u);
}

TEST_F(ContextRecovery, AParkedContextExpiresFromTheRestartOn) {
  Build("a", 5);
  clock_.Advance(absl::Hours(5));
  Restart({.parked_ttl = absl::Hours(1)});
  clock_.Advance(absl::Minutes(59));
  table_->ExpireParked();
  EXPECT_EQ(table_->size(), 1u);
  clock_.Advance(absl::Minutes(2));
  table_->ExpireParked();
  EXPECT_EQ(table_->size(), 0u);
  EXPECT_EQ(journal_.notes().size(), 1u);
}

// Room made for another context erases the notes of the one that left.
TEST_F(ContextRecovery, AContextThatMadeRoomLeavesNoNotes) {
  Build("a", 5);
  const size_t notes = journal_.notes().size();
  Restart({.max_contexts = 1});
  Build("b", 5);
  EXPECT_EQ(journal_.notes().size(), notes);
  Restart();
  EXPECT_EQ(table_->size(), 1u);
  ExpectBuilt("b", 5);
}

// An open that is refused leaves no note that could be taken for the context's.
TEST_F(ContextRecovery, ARefusedOpenOrForkIsNotNoted) {
  Build("a", 5);
  Build("b", 3);
  table_->WriteNotes();
  const size_t position = journal_.position();
  EXPECT_TRUE(absl::IsAlreadyExists(table_->Open(ns_, "a", {SmallGeometry()}, kSession).status()));
  EXPECT_TRUE(absl::IsAlreadyExists(table_->Fork(ns_, "b", "a", 0, kSession).status()));
  EXPECT_EQ(journal_.position(), position);
}

TEST_F(ContextRecovery, NotesOfOthersAreLeftAloneAndDamagedOnesErased) {
  Build("a", 5);
  const store::NoteId other = journal_.Write({"of another room", "payload"});
  const store::NoteId damaged = journal_.Write({"VCTX\1", ""});
  journal_.Write({EncodeLabel(RowsNote{damaged, {{0, 0, 1, 1}}}),
                  EncodePayload({{0, 0, 1, 1}}) + "x"});  // nobody's
  Restart();
  ExpectBuilt("a", 5);
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  EXPECT_EQ(journal_.notes().size(), 2u);
  EXPECT_TRUE(journal_.notes().contains(other));
}

TEST_F(ContextRecovery, NotesOfAnotherVersionAreRefusedAndKept) {
  Build("a", 5);
  table_.reset();
  std::string label = EncodeLabel(EpochsNote{1 << 20});
  label[4] = 9;
  journal_.Write({label, ""});
  const size_t position = journal_.position();
  const auto table = ContextTable::Create(store_.get(), {.journal = &journal_});
  EXPECT_TRUE(absl::IsFailedPrecondition(table.status())) << table.status();
  EXPECT_EQ(journal_.position(), position);
}

TEST_F(ContextRecovery, InsaneDigestsAreAHole) {
  BuildInThree("a");
  const store::NoteId id = Find(0, 4);
  FakeJournal::Kept note = journal_.notes().at(id);
  note.payload.assign(note.payload.size(), '\xff');  // NaN
  journal_.BringBack(id, note);
  Restart();
  EXPECT_EQ(Attached("a").digest_blocks, (std::vector<uint32_t>{4, 12}));
}

// Notes that no table writes: what two contexts build on different rows is not shared.
TEST_F(ContextRecovery, ContradictingNotesAreAHole) {
  const auto hashes = [](uint64_t seed, uint32_t first, uint32_t blocks) {
    std::string rows;
    for (const std::string& hash : Hashes(seed, first, blocks)) {
      std::string row(1, static_cast<char>(hash.size()));
      row += hash;
      row.resize(kBlockRowBytes);
      rows += row;
    }
    return rows;
  };
  const auto write_rows = [&](store::NoteId under, uint64_t seed, uint32_t first, uint32_t blocks) {
    const std::vector<RowsSection> sections{{RowsSection::kBlocks, first, blocks, kBlockRowBytes}};
    return journal_.Write({EncodeLabel(RowsNote{under, sections}),
                           EncodePayload(sections) + hashes(seed, first, blocks)});
  };
  ContextNote note{"model", "b", {SmallGeometry()}, {}};
  const store::NoteId old = journal_.position() + 1;
  write_rows(old, 1, 0, 5);
  const store::NoteId last = write_rows(old, 1, 5, 3);
  note.inherited = {{old, last, 8}};
  const store::NoteId b = journal_.Write({EncodeLabel(note), EncodePayload(note.inherited)});
  write_rows(b, 2, 0, 5);
  note.id = "a";
  journal_.Write({EncodeLabel(note), EncodePayload(note.inherited)});
  Restart();
  EXPECT_EQ(Attached("a").block_hashes, Hashes(1, 0, 8));
  EXPECT_EQ(Attached("b").block_hashes, Hashes(2, 0, 5));
}

}  // namespace
}  // namespace varve::recall
