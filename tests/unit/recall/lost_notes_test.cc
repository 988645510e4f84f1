// Notes that are lost, or dropped, and room for others.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/recall/recovery_fixture.h"

namespace varve::recall {
namespace {

using LostNotes = ContextRecovery;

// The fork and the truncated state are at no moment neither what they were nor what they are.
TEST_F(LostNotes, ATruncateWhoseNoteIsLostLeavesTheStateBefore) {
  BuildInThree("a");
  journal_.LoseWrites(true);
  ASSERT_TRUE(table_->Truncate(ns_, "a", 5).ok());
  ASSERT_TRUE(table_->Append(ns_, "a", 5, Hashes(2, 5, 4)).ok());
  journal_.LoseWrites(false);
  table_->WriteNotes();
  Restart();
  ExpectBuilt("a", 12);
}

// It is written again, and the rows that came meanwhile count.
TEST_F(LostNotes, ALostNoteIsWrittenAgain) {
  BuildInThree("a");
  for (const bool dropped : {false, true}) {
    SCOPED_TRACE(dropped);
    (dropped ? journal_.Drop(true) : journal_.LoseWrites(true));
    ASSERT_TRUE(table_->Truncate(ns_, "a", 5).ok());
    table_->ExpireParked();  // in vain
    (dropped ? journal_.Drop(false) : journal_.LoseWrites(false));
    if (!dropped) {
      ASSERT_TRUE(table_->Append(ns_, "a", 5, Hashes(2, 5, 4)).ok());
      table_->WriteNotes();
    }
    table_->ExpireParked();
    Restart();
    EXPECT_EQ(Attached("a").num_blocks, dropped ? 5u : 9u);
    EXPECT_EQ(Attached("a").digest_blocks, (std::vector<uint32_t>{5, 5}));
  }
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  EXPECT_EQ(journal_.notes().size(), 1u);
}

TEST_F(LostNotes, ADropErasesWhatALostNoteLeft) {
  BuildInThree("a");
  journal_.LoseWrites(true);
  ASSERT_TRUE(table_->Truncate(ns_, "a", 5).ok());
  ASSERT_TRUE(table_->Truncate(ns_, "a", 4).ok());
  journal_.LoseWrites(false);
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  EXPECT_EQ(journal_.notes().size(), 1u);
}

// Truncates that overtake their notes.
TEST_F(LostNotes, WhatIsReplacedStaysUntilTheNewNoteIsThere) {
  for (const bool lost : {false, true}) {
    BuildInThree("a");
    const size_t notes = journal_.notes().size();
    journal_.HoldBack(true);
    ASSERT_TRUE(table_->Truncate(ns_, "a", 5).ok());
    ASSERT_TRUE(table_->Truncate(ns_, "a", 4).ok());
    EXPECT_EQ(journal_.notes().size(), notes + 2);
    journal_.HoldBack(false);
    journal_.TellHeldBack(lost ? absl::UnavailableError("gone") : absl::OkStatus());
    EXPECT_EQ(journal_.notes().size(), lost ? notes + 2 : 5u);
    table_->ExpireParked();
    EXPECT_EQ(journal_.notes().size(), 5u);
    Restart();
    ExpectBuilt("a", 4);
    ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  }
}

// Told when the table has gone already.
TEST_F(LostNotes, ANoteOutlivesItsTable) {
  BuildInThree("a");
  journal_.HoldBack(true);
  ASSERT_TRUE(table_->Truncate(ns_, "a", 5).ok());
  table_.reset();
  journal_.TellHeldBack(absl::OkStatus());
  journal_.HoldBack(false);
  Restart();
  ExpectBuilt("a", 5);
}

TEST_F(LostNotes, LostEpochsAreNotedAgain) {
  Build("a", 1);
  uint32_t epoch = table_->Get(ns_, "a")->epoch;
  journal_.LoseWrites(true);
  for (int i = 0; i < 40000; ++i) epoch = table_->Truncate(ns_, "a", 0)->epoch;
  journal_.LoseWrites(false);
  epoch = table_->Truncate(ns_, "a", 0)->epoch;
  Restart();
  EXPECT_GT(table_->Get(ns_, "a")->epoch, epoch);
}

// ---- room for notes

// What was dropped cuts the context there, whatever is kept after it.
TEST_F(LostNotes, ADroppedNoteIsAHole) {
  const uint32_t epoch = Build("a", 4);
  table_->WriteNotes();
  journal_.Drop(true);
  ASSERT_TRUE(table_->Append(ns_, "a", 4, Hashes(1, 4, 4)).ok());
  table_->WriteNotes();
  journal_.Drop(false);
  const size_t notes = journal_.notes().size();
  ASSERT_TRUE(table_->Append(ns_, "a", 8, Hashes(1, 8, 4)).ok());
  for (uint32_t l = 0; l < 2; ++l) ASSERT_TRUE(AddDigests("a", epoch, l, 4, 8).ok());
  table_->WriteNotes();
  EXPECT_EQ(journal_.notes().size(), notes);  // of no use
  ASSERT_TRUE(table_->Fork(ns_, "a", "fork", 0, kSession).ok());
  // What lies before the hole can be gone on from.
  ASSERT_TRUE(table_->Truncate(ns_, "a", 3).ok());
  ASSERT_TRUE(table_->Append(ns_, "a", 3, Hashes(1, 3, 3)).ok());
  Restart();
  ExpectBuilt("fork", 4);
  EXPECT_EQ(Attached("a").block_hashes, Hashes(1, 0, 6));
}

TEST_F(LostNotes, AContextThatIsNotKeptLeavesNothing) {
  journal_.Drop(true);
  Build("a", 4);
  table_->WriteNotes();
  journal_.Drop(false);
  table_->ExpireParked();
  ASSERT_TRUE(table_->Fork(ns_, "a", "fork", 0, kSession).ok());
  EXPECT_EQ(journal_.notes().size(), 1u);
  Restart();
  EXPECT_EQ(table_->size(), 0u);
}

TEST_F(LostNotes, ParkedContextsMakeRoomForNotes) {
  for (uint64_t i = 1; i <= 4; ++i) {
    Build("c" + std::to_string(i), 100, {SmallGeometry()}, i);
  }
  table_->WriteNotes();
  const uint64_t all = journal_.GetRoom().used_bytes;
  for (const char* id : {"c1", "c2", "c3"}) {
    ASSERT_TRUE(table_->Park(ns_, id, kSession).ok());
    clock_.Advance(absl::Seconds(1));
  }
  journal_.SetMaxBytes(all * 2);
  table_->ExpireParked();
  EXPECT_EQ(table_->kept().forgotten, 0u);
  journal_.SetMaxBytes(all);
  table_->ExpireParked();
  EXPECT_EQ(table_->kept().forgotten, 1u);  // a quarter
  EXPECT_EQ(table_->size(), 4u);
  Restart({.max_contexts = 2});
  EXPECT_EQ(table_->kept().left, 1u);
  journal_.SetMaxBytes(all * 3 / 4);
  table_->ExpireParked();
  EXPECT_EQ(table_->kept().left, 0u);
  ExpectBuilt("c3", 100, 3);
  ExpectBuilt("c4", 100, 4);
  // Both are in use.
  journal_.SetMaxBytes(100);
  table_->ExpireParked();
  Restart();
  EXPECT_EQ(table_->size(), 2u);
}

}  // namespace
}  // namespace varve::recall
