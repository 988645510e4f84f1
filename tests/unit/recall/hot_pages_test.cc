// Hot pages that a park leaves in a context: who gets them back, and what they count against. What
// is refused is tested through the wire (store_bad_requests_test).
#include "gmock/gmock.h"
#include "tests/unit/recall/recovery_fixture.h"

namespace varve::recall {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class HotPagesTest : public ContextRecovery {
 protected:
  std::vector<HotPages> Hot(const std::string& id) { return Attached(id).hot; }
  absl::Status Park(const std::string& id, std::vector<HotPages> hot) {
    return table_->Park(ns_, id, kSession, std::move(hot)).status();
  }
  const std::vector<HotPages> some_ = {{0, 1, {2, 9}, {4}}, {1, 0, {}, {11}}};
};

TEST_F(HotPagesTest, TheNextToAttachGetsThem) {
  Build("c", 12);
  ASSERT_TRUE(table_->Attach(ns_, "c", 5).ok());
  ASSERT_TRUE(Park("c", some_).ok());
  EXPECT_THAT(table_->Get(ns_, "c")->hot, IsEmpty()) << "of an Attach only";
  const std::vector<HotPages> hot = Hot("c");
  ASSERT_THAT(hot, SizeIs(2));
  EXPECT_EQ(hot[0].kv_head, 1u);
  EXPECT_THAT(hot[0].attended, ElementsAre(2, 9));
  EXPECT_THAT(hot[0].others, ElementsAre(4));
  EXPECT_EQ(hot[1].layer, 1u);
  EXPECT_THAT(hot[1].others, ElementsAre(11));
  // Not replaced by who has nothing to say, is not attached or is refused; by a later park.
  ASSERT_TRUE(Park("c", {}).ok());
  ASSERT_TRUE(Park("c", {{0, 0, {1}, {}}}).ok());
  EXPECT_THAT(Hot("c"), SizeIs(2));
  EXPECT_TRUE(absl::IsInvalidArgument(Park("c", {{0, 0, {12}, {}}})));
  EXPECT_EQ(table_->Get(ns_, "c")->attached_sessions, 2u) << "a refused park lets nothing go";
  EXPECT_THAT(Hot("c"), SizeIs(2));
  ASSERT_TRUE(Park("c", {{0, 0, {1}, {}}}).ok());
  EXPECT_THAT(Hot("c"), SizeIs(1));
}

TEST_F(HotPagesTest, ForksAndTruncatesKeepThoseThatAreLeft) {
  Build("c", 12);
  ASSERT_TRUE(Park("c", some_).ok());
  ASSERT_TRUE(table_->Fork(ns_, "c", "whole", 0, kSession).ok());
  ASSERT_TRUE(table_->Fork(ns_, "c", "part", 9, kSession).ok());
  ASSERT_TRUE(table_->Truncate(ns_, "c", 3).ok());
  // New blocks are other ones.
  ASSERT_TRUE(table_->Append(ns_, "c", 3, Hashes(2, 3, 9)).ok());
  EXPECT_THAT(Hot("whole"), SizeIs(2));
  const std::vector<HotPages> part = Hot("part"), cut = Hot("c");
  ASSERT_THAT(part, SizeIs(1));
  EXPECT_THAT(part[0].attended, ElementsAre(2));
  EXPECT_THAT(part[0].others, ElementsAre(4));
  ASSERT_THAT(cut, SizeIs(1));
  EXPECT_THAT(cut[0].attended, ElementsAre(2));
  EXPECT_THAT(cut[0].others, IsEmpty());
}

TEST_F(HotPagesTest, CountAsDigestsAndAreNotKeptBeyondTheirLimit) {
  Build("c", 12);
  const uint64_t digests = table_->digest_bytes();
  std::vector<uint32_t> all(12);
  for (uint32_t page = 0; page < all.size(); ++page) all[page] = page;
  const std::vector<HotPages> many = {{0, 0, all, {}}, {0, 1, all, {}}, {1, 0, all, {}}};
  ASSERT_TRUE(Park("c", many).ok());
  const uint64_t hot = table_->digest_bytes() - digests;
  EXPECT_GE(hot, 3 * 12 * sizeof(uint32_t));
  ASSERT_TRUE(table_->Fork(ns_, "c", "fork", 0, kSession).ok());
  EXPECT_EQ(table_->digest_bytes(), digests + hot) << "what is shared counts once";
  ASSERT_TRUE(table_->Drop(ns_, "c").ok());
  ASSERT_TRUE(table_->Drop(ns_, "fork").ok());
  EXPECT_EQ(table_->digest_bytes(), 0u);

  Restart({.max_digest_bytes = digests + hot - 1});
  Build("c", 12);
  ASSERT_TRUE(Park("c", many).ok()) << "parked all the same";
  EXPECT_EQ(table_->Get(ns_, "c")->attached_sessions, 0u);
  EXPECT_EQ(table_->digest_bytes(), digests);
  EXPECT_THAT(Hot("c"), IsEmpty());
  ASSERT_TRUE(Park("c", some_).ok());
  EXPECT_THAT(Hot("c"), SizeIs(2));
}

TEST_F(HotPagesTest, EndWithTheProcess) {
  Build("c", 12);
  ASSERT_TRUE(Park("c", some_).ok());
  Restart();
  ExpectBuilt("c", 12);
  EXPECT_THAT(Hot("c"), IsEmpty());
}

}  // namespace
}  // namespace varve::recall
