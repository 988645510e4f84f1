// Contexts for which a start has no room, or that it cannot read.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/recall/recovery_fixture.h"

namespace varve::recall {
namespace {

using LeftContexts = ContextRecovery;

TEST_F(LeftContexts, WhatDoesNotFitIsThereAtAStartWithRoom) {
  for (uint64_t i = 1; i <= 3; ++i) Build("c" + std::to_string(i), 100, {SmallGeometry()}, i);
  const uint64_t each = table_->digest_bytes() / 3;
  table_->WriteNotes();
  const size_t notes = journal_.notes().size();
  const ContextTableOptions tight[] = {{.max_digest_bytes = each + each / 2},
                                       {.max_digest_bytes = 2 * each + 1000},
                                       {.max_digest_bytes = 100},
                                       {.max_contexts = 2},
                                       {.max_contexts = 1, .max_blocks = 250},
                                       {.max_blocks = 130},
                                       {.max_blocks = 30}};
  const size_t expected[] = {1, 2, 0, 2, 1, 1, 0};
  for (size_t i = 0; i < std::size(tight); ++i) {
    SCOPED_TRACE(i);
    Restart(tight[i]);
    EXPECT_LE(table_->digest_bytes(), tight[i].max_digest_bytes);
    EXPECT_EQ(table_->size(), expected[i]);
    EXPECT_EQ(table_->kept().left, 3 - expected[i]);
    EXPECT_EQ(journal_.notes().size(), notes);
    // The newest, and all of it.
    for (size_t c = 4 - expected[i]; c <= 3; ++c) ExpectBuilt("c" + std::to_string(c), 100, c);
    EXPECT_EQ(table_->Attach(ns_, "c1", kSession).status().code(), absl::StatusCode::kNotFound);
  }
  Restart();
  EXPECT_EQ(table_->kept().left, 0u);
  for (uint64_t i = 1; i <= 3; ++i) ExpectBuilt("c" + std::to_string(i), 100, i);
}

// What is large leaves the room to others.
TEST_F(LeftContexts, ALargeContextThatDoesNotFitIsNoObstacle) {
  Build("small", 20);
  const uint64_t small = table_->digest_bytes();
  Build("large", 1000, {SmallGeometry()}, 2);
  Restart({.max_digest_bytes = 2 * small});
  EXPECT_EQ(table_->size(), 1u);
  ExpectBuilt("small", 20);
  Restart();
  ExpectBuilt("large", 1000, 2);
}

// A newer one of its name takes the place of what was left, and nothing of both is mixed.
TEST_F(LeftContexts, WhatIsLeftGivesWayToItsName) {
  const auto leave = [&] {
    Build("a", 10, {SmallGeometry()}, 1);
    Restart({.max_contexts = 0});
    ASSERT_EQ(table_->kept().left, 1u);
    Restart({.max_digest_bytes = 100});
    ASSERT_EQ(table_->kept().left, 1u);
  };
  leave();
  ASSERT_TRUE(table_->Open(ns_, "a", {SmallGeometry()}, kSession).ok());
  EXPECT_EQ(table_->kept().left, 0u);
  EXPECT_EQ(journal_.notes().size(), 2u);  // its own, and the epochs
  ASSERT_TRUE(table_->Append(ns_, "a", 0, Hashes(2, 0, 3)).ok());
  Restart();
  EXPECT_EQ(Attached("a").block_hashes, Hashes(2, 0, 3));
  EXPECT_EQ(Attached("a").digest_blocks, (std::vector<uint32_t>{0, 0}));
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());

  leave();
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  EXPECT_EQ(table_->Drop(ns_, "a").code(), absl::StatusCode::kNotFound);
  Restart();
  EXPECT_EQ(table_->size(), 0u);
  EXPECT_EQ(journal_.notes().size(), 1u);

  leave();
  ASSERT_TRUE(table_->Open(ns_, "b", {SmallGeometry()}, kSession).ok());
  ASSERT_TRUE(table_->Fork(ns_, "b", "a", 0, kSession).ok());
  Restart();
  EXPECT_EQ(Attached("a").num_blocks, 0u);
}

// The newer one's note is what lets the older one go: a crash has the one or the other.
TEST_F(LeftContexts, WhatIsLeftStaysUntilItsSuccessorIsWritten) {
  Build("a", 10);
  Restart({.max_digest_bytes = 100});
  journal_.LoseWrites(true);
  ASSERT_TRUE(table_->Open(ns_, "a", {SmallGeometry()}, kSession).ok());
  ASSERT_TRUE(table_->Append(ns_, "a", 0, Hashes(2, 0, 3)).ok());
  table_->WriteNotes();
  journal_.LoseWrites(false);
  Restart();
  ExpectBuilt("a", 10);
}

TEST_F(LeftContexts, WhatIsLeftExpiresLikeParkedOnes) {
  Build("a", 10);
  Restart({.max_digest_bytes = 100, .parked_ttl = absl::Hours(1)});
  clock_.Advance(absl::Minutes(59));
  table_->ExpireParked();
  EXPECT_EQ(table_->kept().left, 1u);
  clock_.Advance(absl::Minutes(2));
  table_->ExpireParked();
  EXPECT_EQ(table_->kept().left, 0u);
  EXPECT_EQ(table_->expired().by_age, 1u);
  EXPECT_EQ(journal_.notes().size(), 1u);
}

// What a context needs and cannot be read is no reason to lose it, or what it shares.
TEST_F(LeftContexts, WhatCannotBeReadOnceIsThereLater) {
  BuildInThree("a");
  Build("b", 10, {SmallGeometry()}, 2);
  ASSERT_TRUE(table_->Fork(ns_, "a", "fork", 5, kSession).ok());
  table_->WriteNotes();
  const FakeJournal::Notes notes = journal_.notes();
  size_t left = 0;
  for (const auto& [id, note] : notes) {
    if (note.payload.empty()) continue;
    SCOPED_TRACE(id);
    journal_.MakeUnreadable({id});
    Restart();
    left += table_->kept().left;
    EXPECT_EQ(table_->size() + table_->kept().left, 3u);
    journal_.MakeUnreadable({});
    Restart();
    ExpectBuilt("a", 12);
    ExpectBuilt("b", 10, 2);
    ExpectBuilt("fork", 5);
  }
  EXPECT_GT(left, notes.size());
}

}  // namespace
}  // namespace varve::recall
