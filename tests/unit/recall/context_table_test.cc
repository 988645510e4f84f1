// Contexts: life cycle, holds, epochs, forks, limits, and every field out of range.
#include "kvstore/recall/context_table.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/recall/recall_fixture.h"

namespace varve::recall {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ContextTableTest : public RecallTest {
 protected:
  absl::Status Open(const std::string& id, const ContextOptions& options = {SmallGeometry()},
                    uint64_t session = kSession) {
    return table_->Open(ns_, id, options, session).status();
  }
  ContextSnapshot Snapshot(const std::string& id) {
    auto snapshot = table_->Get(ns_, id);
    EXPECT_TRUE(snapshot.ok()) << snapshot.status();
    return *snapshot;
  }
};

// ---- life cycle

TEST_F(ContextTableTest, OpenedContextIsEmptyAndAttached) {
  const auto opened = table_->Open(ns_, "chat:1", {SmallGeometry()}, kSession);
  ASSERT_TRUE(opened.ok());
  EXPECT_EQ(opened->context_id, "chat:1");
  EXPECT_EQ(opened->num_blocks, 0u);
  EXPECT_EQ(opened->attached_sessions, 1u);
  EXPECT_NE(opened->epoch, 0u);
  EXPECT_THAT(opened->digest_blocks, ElementsAre(0, 0));
  EXPECT_EQ(Open("chat:1").code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(table_->size(), 1u);
}

TEST_F(ContextTableTest, BadOpensNameWhatIsAllowed) {
  for (const std::string& id : {std::string(), std::string(129, 'a'), std::string("a b"),
                                std::string("a/b"), std::string("a\0b", 3)}) {
    EXPECT_THAT(Open(id).ToString(), AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("1..128")));
  }
  EXPECT_TRUE(Open(std::string(128, 'a')).ok());
  ContextOptions options{SmallGeometry()};
  options.geometry.head_dim = 33;
  EXPECT_THAT(Open("c", options).ToString(), AllOf(HasSubstr("geometry"), HasSubstr("head_dim")));
  options = {SmallGeometry(), static_cast<page::DigestKind>(11)};
  EXPECT_THAT(Open("c", options).ToString(), AllOf(HasSubstr("digest_kind"), HasSubstr("minmax")));
}

TEST_F(ContextTableTest, UnknownContextsAreNotFoundEverywhere) {
  const absl::StatusCode not_found = absl::StatusCode::kNotFound;
  EXPECT_EQ(table_->Append(ns_, "x", 0, {}).status().code(), not_found);
  EXPECT_EQ(table_->Truncate(ns_, "x", 0).status().code(), not_found);
  EXPECT_EQ(table_->Fork(ns_, "x", "y", 0, kSession).status().code(), not_found);
  EXPECT_EQ(table_->Attach(ns_, "x", kSession).status().code(), not_found);
  EXPECT_EQ(table_->Park(ns_, "x", kSession).status().code(), not_found);
  EXPECT_EQ(table_->Drop(ns_, "x").code(), not_found);
  EXPECT_EQ(table_->Get(ns_, "x").status().code(), not_found);
  EXPECT_EQ(table_->AppendDigests(ns_, "x", 1, 0, 0, 1, "").status().code(), not_found);
  EXPECT_EQ(ReadDigests("x", 0, 0, 1).status().code(), not_found);
  EXPECT_EQ(table_->Select(ns_, "x", {}, {}, nullptr).status().code(), not_found);
  ASSERT_TRUE(Open("x").ok());
  EXPECT_EQ(table_->Get(ns_ + 1, "x").status().code(), not_found) << "another namespace";
}

TEST_F(ContextTableTest, AppendTakesConsecutiveBlocksOnly) {
  ASSERT_TRUE(Open("c").ok());
  EXPECT_EQ(table_->Append(ns_, "c", 0, Hashes(1, 0, 3))->num_blocks, 3u);
  for (uint32_t first : {0u, 2u, 4u, UINT32_MAX}) {
    EXPECT_THAT(table_->Append(ns_, "c", first, Hashes(1, 3, 1)).status().ToString(),
                AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("allowed: 3")));
  }
  const std::vector<std::string> short_hash = {"abc"};
  const std::vector<std::string> long_hash = {HashOf(1, 3), std::string(60, 'x')};
  EXPECT_THAT(
      table_->Append(ns_, "c", 3, short_hash).status().ToString(),
      AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("block_hashes[0]"), HasSubstr("4..59")));
  EXPECT_THAT(table_->Append(ns_, "c", 3, long_hash).status().ToString(),
              HasSubstr("block_hashes[1]"));
  EXPECT_EQ(Snapshot("c").num_blocks, 3u);
  EXPECT_TRUE(table_->Append(ns_, "c", 3, {}).ok());
}

TEST_F(ContextTableTest, AttachAnswersTheHashes) {
  Build("c", 700);
  const auto attached = table_->Attach(ns_, "c", 5);
  ASSERT_TRUE(attached.ok());
  EXPECT_EQ(attached->block_hashes, Hashes(1, 0, 700));
  EXPECT_EQ(attached->attached_sessions, 2u);
  EXPECT_EQ(table_->Attach(ns_, "c", 5)->attached_sessions, 2u) << "one session, one attachment";
  EXPECT_THAT(Snapshot("c").block_hashes, IsEmpty());
  EXPECT_EQ(table_->Park(ns_, "c", 5)->attached_sessions, 1u);
  EXPECT_EQ(table_->Park(ns_, "c", 5)->attached_sessions, 1u);
}

TEST_F(ContextTableTest, ListIsAscendingPagedAndPerNamespace) {
  for (const char* id : {"c", "a", "d", "b"}) ASSERT_TRUE(Open(id).ok());
  ASSERT_TRUE(table_->Open(ns_ + 1, "other", {SmallGeometry()}, kSession).ok());
  const auto ids = [&](std::string_view after, size_t limit) {
    std::vector<std::string> result;
    for (const ContextSnapshot& s : table_->List(ns_, after, limit)) result.push_back(s.context_id);
    return result;
  };
  EXPECT_THAT(ids("", 10), ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(ids("a", 2), ElementsAre("b", "c"));
  EXPECT_THAT(ids("d", 2), IsEmpty());
}

// ---- holds

TEST_F(ContextTableTest, AttachedContextsHoldTheirBlocks) {
  for (uint32_t b = 0; b < 6; ++b) StoreObject(HashOf(1, b), 0);
  ASSERT_TRUE(Open("c").ok());
  ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, 4)).ok());
  EXPECT_EQ(PinnedObjects(), 4u);
  StoreObject(HashOf(1, 2), 1);
  EXPECT_EQ(PinnedObjects(), 5u) << "objects of a held block that are stored later";
  ASSERT_TRUE(table_->Truncate(ns_, "c", 2).ok());
  EXPECT_EQ(PinnedObjects(), 2u);
  ASSERT_TRUE(table_->Append(ns_, "c", 2, Hashes(1, 4, 1)).ok());
  EXPECT_EQ(PinnedObjects(), 3u);
  ASSERT_TRUE(table_->Park(ns_, "c", kSession).ok());
  EXPECT_EQ(PinnedObjects(), 0u);
  ASSERT_TRUE(table_->Append(ns_, "c", 3, Hashes(1, 5, 1)).ok());
  EXPECT_EQ(PinnedObjects(), 0u) << "parked contexts hold nothing";
  ASSERT_TRUE(table_->Attach(ns_, "c", 5).ok());
  ASSERT_TRUE(table_->Attach(ns_, "c", 6).ok());
  EXPECT_EQ(PinnedObjects(), 4u);
  ASSERT_TRUE(table_->Park(ns_, "c", 5).ok());
  EXPECT_EQ(PinnedObjects(), 4u) << "somebody is still attached";
  ASSERT_TRUE(table_->Truncate(ns_, "c", 0).ok());
  EXPECT_EQ(PinnedObjects(), 0u);
}

TEST_F(ContextTableTest, ForksHoldOnTheirOwn) {
  for (uint32_t b = 0; b < 4; ++b) StoreObject(HashOf(1, b), 0);
  ASSERT_TRUE(Open("c").ok());
  ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, 4)).ok());
  ASSERT_TRUE(table_->Fork(ns_, "c", "f", 3, 9).ok());
  EXPECT_EQ(PinnedObjects(), 4u);
  ASSERT_TRUE(table_->Drop(ns_, "c").ok());
  EXPECT_EQ(PinnedObjects(), 3u);
  EXPECT_EQ(table_->Fork(ns_, "f", "f", 0, 9).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(PinnedObjects(), 3u) << "a refused fork holds nothing";
  ASSERT_TRUE(table_->Drop(ns_, "f").ok());
  EXPECT_EQ(PinnedObjects(), 0u);
}

TEST_F(ContextTableTest, EndOfASessionParksItsContexts) {
  for (uint32_t b = 0; b < 4; ++b) StoreObject(HashOf(1, b), 0);
  for (const char* id : {"a", "b"}) {
    ASSERT_TRUE(Open(id).ok());
    ASSERT_TRUE(table_->Append(ns_, id, 0, Hashes(1, 0, 4)).ok());
  }
  ASSERT_TRUE(table_->Attach(ns_, "b", 5).ok());
  table_->DetachSession(kSession);
  EXPECT_EQ(Snapshot("a").attached_sessions, 0u);
  EXPECT_EQ(Snapshot("b").attached_sessions, 1u);
  EXPECT_EQ(PinnedObjects(), 4u);
  table_->DetachSession(5);
  EXPECT_EQ(PinnedObjects(), 0u);
  EXPECT_EQ(table_->size(), 2u) << "parked, not dropped";
}

TEST_F(ContextTableTest, TheTableGivesUpItsHoldsWhenItGoes) {
  StoreObject(HashOf(1, 0), 0);
  ASSERT_TRUE(Open("c").ok());
  ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, 1)).ok());
  EXPECT_EQ(PinnedObjects(), 1u);
  table_.reset();
  EXPECT_EQ(PinnedObjects(), 0u);
}

// ---- digests

TEST_F(ContextTableTest, DigestsComeBackInAnySplit) {
  const ContextOptions options{SmallGeometry()};
  const auto opened = table_->Open(ns_, "c", options, kSession);
  ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, 100)).ok());
  EXPECT_EQ(*AddDigests("c", opened->epoch, 1, 0, 10), 10u);
  EXPECT_EQ(*AddDigests("c", opened->epoch, 1, 10, 1), 11u);
  EXPECT_EQ(*AddDigests("c", opened->epoch, 1, 11, 80), 91u);
  EXPECT_THAT(Snapshot("c").digest_blocks, ElementsAre(0, 91));
  const size_t row_bytes = page::DigestRowBytes(options.digest_kind, options.geometry);
  EXPECT_EQ(Snapshot("c").digest_bytes, 91 * row_bytes);
  EXPECT_EQ(table_->digest_bytes(), 128 * row_bytes) << "chunks of 16, 16, 32 and 64 rows";
  EXPECT_EQ(*ReadDigests("c", 1, 5, 80), RandomDigests(options, 101, 5, 80));
  EXPECT_EQ(ReadDigests("c", 1, 5, 87).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadDigests("c", 1, 92, 0).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(*ReadDigests("c", 1, 91, 0), "");
  EXPECT_EQ(ReadDigests("c", 1, UINT32_MAX, UINT32_MAX).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ReadDigests("c", 2, 0, 1).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ContextTableTest, ResentDigestsMustBeIdentical) {
  const uint32_t epoch = Build("c", 30);
  EXPECT_EQ(*AddDigests("c", epoch, 0, 0, 30), 30u);
  EXPECT_EQ(*AddDigests("c", epoch, 0, 7, 3), 30u);
  ASSERT_TRUE(table_->Append(ns_, "c", 30, Hashes(1, 30, 10)).ok());
  EXPECT_EQ(*AddDigests("c", epoch, 0, 25, 15), 40u) << "an overlap that goes on";
  EXPECT_EQ(*ReadDigests("c", 0, 0, 40), RandomDigests({SmallGeometry()}, 1, 0, 40));
  EXPECT_THAT(AddDigests("c", epoch, 0, 7, 3, {SmallGeometry()}, /*seed=*/2).status().ToString(),
              AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("blocks 7..9 of layer 0")));
  EXPECT_EQ(*ReadDigests("c", 0, 0, 40), RandomDigests({SmallGeometry()}, 1, 0, 40));
}

TEST_F(ContextTableTest, BadDigestsNameWhatIsAllowed) {
  const ContextOptions options{SmallGeometry()};
  const uint32_t epoch = Build("c", 10);
  ASSERT_TRUE(table_->Append(ns_, "c", 10, Hashes(1, 10, 10)).ok());
  const std::string row = RandomDigests(options, 1, 10, 1);
  const auto error = [&](uint32_t e, uint32_t layer, uint32_t first, uint32_t n,
                         const std::string& rows) {
    return table_->AppendDigests(ns_, "c", e, layer, first, n, rows).status().ToString();
  };
  EXPECT_THAT(error(epoch, 2, 10, 1, row),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("layer is 2, allowed: 0..1")));
  EXPECT_THAT(error(epoch, 0, 10, 0, ""), HasSubstr("num_blocks is 0"));
  EXPECT_THAT(error(epoch, 0, 10, UINT32_MAX, row), HasSubstr("num_blocks"));
  EXPECT_THAT(error(epoch, 0, 10, 1, row.substr(1)),
              AllOf(HasSubstr("rows has"), HasSubstr("allowed: " + std::to_string(row.size()))));
  EXPECT_THAT(error(epoch, 0, 10, 2, row), HasSubstr("rows has"));
  EXPECT_THAT(error(epoch, 0, 11, 1, row),
              AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("hole"), HasSubstr("0..10")));
  EXPECT_THAT(error(epoch, 0, UINT32_MAX, 1, row), HasSubstr("hole"));
  EXPECT_THAT(error(epoch + 1, 0, 10, 1, row),
              AllOf(HasSubstr("FAILED_PRECONDITION"), HasSubstr("epoch")));
  EXPECT_THAT(error(0, 0, 10, 1, row), HasSubstr("epoch"));
  EXPECT_THAT(error(epoch, 0, 10, 11, RandomDigests(options, 1, 10, 11)),
              HasSubstr("append the blocks first"));

  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::string broken = row;
    page::StoreF32(broken.data(), options.geometry.dtype, 50, bad);
    EXPECT_THAT(error(epoch, 0, 10, 1, broken),
                AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("NaN")));
  }
  std::string swapped = row;
  const size_t vector_bytes = options.geometry.row_bytes();
  std::swap_ranges(swapped.begin(), swapped.begin() + static_cast<long>(vector_bytes),
                   swapped.begin() + static_cast<long>(vector_bytes));
  EXPECT_THAT(error(epoch, 0, 10, 1, swapped), HasSubstr("hi >= lo"));
  EXPECT_THAT(Snapshot("c").digest_blocks, Each(10u));
}

TEST_F(ContextTableTest, DigestMemoryIsLimited) {
  const ContextOptions options{SmallGeometry()};
  const size_t row_bytes = page::DigestRowBytes(options.digest_kind, options.geometry);
  Start({.max_digest_bytes = 40 * row_bytes});
  const auto opened = table_->Open(ns_, "c", options, kSession);
  ASSERT_TRUE(table_->Append(ns_, "c", 0, Hashes(1, 0, 64)).ok());
  EXPECT_TRUE(AddDigests("c", opened->epoch, 0, 0, 32).ok());
  EXPECT_THAT(AddDigests("c", opened->epoch, 0, 32, 1).status().ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("max_digest_bytes")));
  EXPECT_THAT(Snapshot("c").digest_blocks, ElementsAre(32, 0));
  ASSERT_TRUE(table_->Drop(ns_, "c").ok());
  EXPECT_EQ(table_->digest_bytes(), 0u);
}

TEST_F(ContextTableTest, NumberOfContextsIsLimited) {
  Start({.max_contexts = 2});
  ASSERT_TRUE(Open("a").ok());
  ASSERT_TRUE(Open("b").ok());
  EXPECT_THAT(Open("c").ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("allowed: 2")));
  EXPECT_EQ(table_->Fork(ns_, "a", "c", 0, 1).status().code(),
            absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  EXPECT_TRUE(Open("c").ok());
}

TEST_F(ContextTableTest, BlockListsAreLimited) {
  Start({.max_blocks = 64});
  ASSERT_TRUE(Open("a").ok());
  ASSERT_TRUE(table_->Append(ns_, "a", 0, Hashes(1, 0, 64)).ok());
  ASSERT_TRUE(table_->Fork(ns_, "a", "fork", 0, kSession).ok()) << "what is shared counts once";
  EXPECT_THAT(table_->Append(ns_, "a", 64, Hashes(1, 64, 1)).status().ToString(),
              AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("max_blocks")));
  ASSERT_TRUE(table_->Drop(ns_, "a").ok());
  ASSERT_TRUE(table_->Drop(ns_, "fork").ok());
  ASSERT_TRUE(Open("b").ok());
  EXPECT_TRUE(table_->Append(ns_, "b", 0, Hashes(2, 0, 64)).ok());
}

TEST_F(ContextTableTest, ParkedContextsExpire) {
  Start({.parked_ttl = absl::Minutes(10), .clock = &clock_});
  for (const char* id : {"attached", "parked", "used"}) Build(id, 4);
  for (const char* id : {"parked", "used"}) ASSERT_TRUE(table_->Park(ns_, id, kSession).ok());
  clock_.Advance(absl::Minutes(9));
  table_->ExpireParked();
  EXPECT_EQ(table_->size(), 3u);
  ASSERT_TRUE(ReadDigests("used", 0, 0, 4).ok());
  clock_.Advance(absl::Minutes(2));
  table_->ExpireParked();
  EXPECT_EQ(table_->size(), 2u);
  EXPECT_EQ(table_->Attach(ns_, "parked", kSession).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table_->expired().by_age, 1u);
  // Those of a client that died: parked from its end on.
  table_->DetachSession(kSession);
  clock_.Advance(absl::Minutes(9));
  table_->ExpireParked();
  EXPECT_EQ(Snapshot("attached").attached_sessions, 0u);
  clock_.Advance(absl::Minutes(11));
  table_->ExpireParked();
  EXPECT_EQ(table_->size(), 0u);
  EXPECT_EQ(table_->digest_bytes(), 0u);
}

TEST_F(ContextTableTest, ParkedContextsStayWithoutATtl) {
  Start({.clock = &clock_});
  Build("c", 4);
  ASSERT_TRUE(table_->Park(ns_, "c", kSession).ok());
  clock_.Advance(absl::Hours(24 * 365));
  table_->ExpireParked();
  EXPECT_EQ(table_->size(), 1u);
}

TEST_F(ContextTableTest, TheOldestParkedContextMakesRoom) {
  Start({.max_contexts = 3, .clock = &clock_});
  for (const char* id : {"a", "b", "c"}) {
    Build(id, 4);
    clock_.Advance(absl::Seconds(1));
  }
  for (const char* id : {"b", "c"}) ASSERT_TRUE(table_->Park(ns_, id, kSession).ok());
  clock_.Advance(absl::Seconds(1));
  ASSERT_TRUE(ReadDigests("b", 0, 0, 4).ok());  // now "c" is the oldest
  EXPECT_FALSE(Open("a").ok()) << "exists: no reason to drop one";
  EXPECT_EQ(table_->size(), 3u);
  EXPECT_TRUE(Open("d").ok());
  EXPECT_EQ(table_->Attach(ns_, "c", kSession).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(table_->Fork(ns_, "a", "e", 0, kSession).ok());
  EXPECT_EQ(table_->Attach(ns_, "b", kSession).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(table_->expired().for_room, 2u);
  EXPECT_THAT(Open("f").ToString(), AllOf(HasSubstr("RESOURCE_EXHAUSTED"), HasSubstr("parked")));
}

// ---- forks and truncation

TEST_F(ContextTableTest, ForksShareTheirDigestMemory) {
  Build("c", 1000);
  const uint64_t before = table_->digest_bytes();
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(table_->Fork(ns_, "c", "f" + std::to_string(i), 0, kSession).ok());
  }
  EXPECT_EQ(table_->digest_bytes(), before) << "what is shared counts once";
  EXPECT_EQ(Snapshot("f3").digest_bytes, Snapshot("c").digest_bytes);
  ASSERT_TRUE(table_->Drop(ns_, "c").ok());
  EXPECT_EQ(table_->digest_bytes(), before) << "the forks still need it";
  EXPECT_EQ(*ReadDigests("f3", 0, 0, 1000), RandomDigests({SmallGeometry()}, 1, 0, 1000));
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(table_->Drop(ns_, "f" + std::to_string(i)).ok());
  EXPECT_EQ(table_->digest_bytes(), 0u);
}

TEST_F(ContextTableTest, DivergingForksCopyThePartialChunkOnly) {
  const ContextOptions options{SmallGeometry()};
  const size_t row_bytes = page::DigestRowBytes(options.digest_kind, options.geometry);
  const uint32_t epoch = Build("c", 600);
  const uint64_t before = table_->digest_bytes();
  const auto fork = table_->Fork(ns_, "c", "f", 520, kSession);
  ASSERT_TRUE(fork.ok());
  EXPECT_EQ(fork->num_blocks, 520u);
  EXPECT_THAT(fork->digest_blocks, Each(520u));
  EXPECT_NE(fork->epoch, epoch);
  ASSERT_TRUE(table_->Append(ns_, "f", 520, Hashes(2, 520, 5)).ok());
  ASSERT_TRUE(AddDigests("f", fork->epoch, 0, 520, 5, options, 2).ok());
  EXPECT_EQ(table_->digest_bytes() - before, 512 * row_bytes)
      << "one chunk of 512 rows, of one layer";
  EXPECT_EQ(*ReadDigests("c", 0, 0, 600), RandomDigests(options, 1, 0, 600));
  EXPECT_EQ(*ReadDigests("f", 0, 0, 520), RandomDigests(options, 1, 0, 520));
  EXPECT_EQ(*ReadDigests("f", 0, 520, 5), RandomDigests(options, 2, 520, 5));
  EXPECT_THAT(table_->Fork(ns_, "c", "g", 601, kSession).status().ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("0..600")));
}

TEST_F(ContextTableTest, TruncateShortensEveryLayerAndRaisesTheEpoch) {
  const uint32_t epoch = Build("c", 40);
  const auto truncated = table_->Truncate(ns_, "c", 33);
  ASSERT_TRUE(truncated.ok());
  EXPECT_EQ(truncated->num_blocks, 33u);
  EXPECT_THAT(truncated->digest_blocks, Each(33u));
  EXPECT_GT(truncated->epoch, epoch);
  EXPECT_THAT(table_->Truncate(ns_, "c", 34).status().ToString(),
              AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr("0..33")));
  EXPECT_EQ(AddDigests("c", epoch, 0, 33, 1).status().code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(table_->Append(ns_, "c", 33, Hashes(2, 33, 20)).ok());
  ASSERT_TRUE(AddDigests("c", truncated->epoch, 0, 33, 20, {SmallGeometry()}, 2).ok());
  EXPECT_EQ(*ReadDigests("c", 0, 33, 20), RandomDigests({SmallGeometry()}, 2, 33, 20));
  EXPECT_EQ(table_->Attach(ns_, "c", kSession)->block_hashes[33], HashOf(2, 33));
}

TEST_F(ContextTableTest, EpochsAreNeverGivenTwice) {
  const uint32_t first = Build("c", 4);
  ASSERT_TRUE(table_->Drop(ns_, "c").ok());
  const uint32_t second = Build("c", 4);
  EXPECT_NE(first, second) << "a worker of the dropped context must not match the new one";
}

}  // namespace
}  // namespace varve::recall
